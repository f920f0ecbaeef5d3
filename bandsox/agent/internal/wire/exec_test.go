package wire

import (
	"bytes"
	"math"
	"reflect"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// byReflection is an exec request as the library reads it.
func byReflection(payload []byte) (r ExecRequest, err error) {
	err = msgpack.Unmarshal(payload, &r)
	if len(r.Env) == 0 {
		r.Env = nil
	}
	return r, err
}

func TestAnExecRequestIsReadAsByReflection(t *testing.T) {
	long := string(bytes.Repeat([]byte("x"), 70000))
	many := make([]string, 70000)
	for _, value := range []map[string]any{
		{},
		{"op": "exec", "argv": []string{"a", "", "b c"}, "env": map[string]string{"A": "1", "B": ""}, "cwd": "/tmp", "user": "1:2"},
		{"argv": [][]byte{{0xff}, {}, bytes.Repeat([]byte{7}, 300)}, "env": map[string][]byte{"K": {0xfe}}, "shell": []byte("exit 1")},
		{"argv": []string{long, long[:40], long[:300]}, "cwd": long[:65536]},
		{"argv": many, "terse": true, "unknown": []any{1, nil, map[string]any{"x": 2.5}}},
		{"argv": nil, "env": nil, "shell": nil, "tty": nil, "cwd": nil, "stdin": nil, "timeout_ms": nil},
		{"argv": []string{}, "env": map[string]string{}, "shell": "", "stdin": true, "clear_env": true, "detached": true, "merge_stderr": true},
		{"tty": map[string]any{"cols": 80, "rows": math.MaxUint16, "depth": 3}, "session": "s-1", "timeout_ms": 2500},
		{"tty": map[string]any{}, "timeout_ms": math.MaxInt64},
		{"timeout_ms": math.MinInt64}, {"timeout_ms": -1}, {"timeout_ms": -200}, {"timeout_ms": -40000}, {"timeout_ms": math.MinInt32},
		{"timeout_ms": int8(-3)}, {"timeout_ms": uint8(200)}, {"timeout_ms": uint16(60000)}, {"timeout_ms": uint32(math.MaxUint32)},
		{"argv": "a"}, {"argv": []any{1}}, {"argv": map[string]string{}}, {"env": []string{"A=1"}}, {"env": map[string]any{"A": 1}}, {"env": map[int]string{1: "A"}},
		{"cwd": 1}, {"user": true}, {"stdin": 1}, {"stdin": "yes"}, {"timeout_ms": "1"}, {"timeout_ms": 1.5}, {"tty": 80}, {"shell": []string{}},
	} {
		for _, compact := range []bool{false, true} {
			var message bytes.Buffer
			encoder := msgpack.NewEncoder(&message)
			encoder.UseCompactInts(compact)
			if err := encoder.Encode(value); err != nil {
				t.Fatal(err)
			}
			want, wrong := byReflection(message.Bytes())
			var got ExecRequest
			err := Decode(message.Bytes(), &got)
			if (err != nil) != (wrong != nil) {
				t.Errorf("%.200v: %v, by reflection %v", value, err, wrong)
			} else if err == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("%.200v: %.300v, by reflection %.300v", value, got, want)
			}
		}
	}
}

func TestAnIntegerThatDoesNotFitIsOfTheWrongType(t *testing.T) {
	frame, err := MessageFrame(Request, map[string]any{"timeout_ms": uint64(math.MaxUint64)})
	if err != nil {
		t.Fatal(err)
	}
	if err := Decode(frame[HeaderSize:], new(ExecRequest)); AsFailure(err).Code != CodeInvalid {
		t.Fatal(err)
	}
}

func TestEventsAndResultsOfCommandsAreWrittenAsByReflection(t *testing.T) {
	messages := []any{StartedEvent{}, StartedEvent{Kind: "started", Pid: 4194304}}
	numbers := []int64{0, 1, 31, 127, 128, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64,
		-1, -32, -33, -128, -129, -32768, -32769, math.MinInt32, math.MinInt32 - 1, math.MinInt64}
	for _, n := range numbers {
		signal := int(n)
		messages = append(messages,
			ExitResult{ExitCode: int(n), CPUMS: n, MaxRSS: n}, ExitResult{Signal: &signal, TimedOut: true, MaxRSS: -n})
	}
	for _, message := range messages {
		var want bytes.Buffer
		encoder := msgpack.NewEncoder(&want)
		encoder.UseCompactInts(true)
		if err := encoder.Encode(message); err != nil {
			t.Fatal(err)
		}
		frame, err := MessageFrame(Result, message)
		if err != nil || !bytes.Equal(frame, Frame(Result, want.Bytes())) {
			t.Errorf("%+v: %x %v, by reflection %x", message, frame, err, want.Bytes())
		}
	}
}

// FuzzExecRequest feeds any bytes: what the library takes is read as it reads it.
func FuzzExecRequest(f *testing.F) {
	for _, c := range loadVectors(f).Messages {
		if c.Type == Request {
			f.Add([]byte(c.Hex))
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var got ExecRequest
		if Decode(payload, &got) != nil {
			return
		}
		if want, err := byReflection(payload); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, by reflection %+v %v", got, want, err)
		}
	})
}
