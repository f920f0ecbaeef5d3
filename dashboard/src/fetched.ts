/** Parts of the dashboard's own program, each fetched when it is needed.
 *
 * A browser gives up what it is fetching when an address of its host comes or goes (`ERR_NETWORK_CHANGED`), which on the host of the VMs happens
 * with every VM that root makes. So a part is asked for again, as the SDK asks again for what it reads.
 */

const PAUSES_MS = [100, 300, 900];

export async function fetched<Part>(load: () => Promise<Part>): Promise<Part> {
  for (const pause of PAUSES_MS) {
    try {
      return await load();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
  return load();
}
