package store

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sample() *Record {
	return &Record{
		ID: 7, Key: [32]byte{1, 2}, Partition: [32]byte{3}, Space: "lexical/2", Tenant: "local", Namespace: "n",
		Op: "chat", Model: "m:latest", Digest: "abc", Provider: "ollama", Tags: []string{"a", "b"},
		Canonical: []byte("request"), Prompt: "question", Vector: []float32{0.6, -0.8},
		Created: time.UnixMilli(1_700_000_000_123), Expires: time.UnixMilli(1_700_003_600_000),
		Cost: 1500 * time.Millisecond, InputTokens: 11, OutputTokens: 22, Answer: []byte("answer"), AnswerBytes: 6,
	}
}

// spaces is a dictionary that knows sample's vector space as generation 5.
var spaces = map[uint32]Space{5: {"lexical/2", 2}}

func decode(id uint64, b []byte) (*Record, error) { return NewDecoder(spaces).Meta(id, b) }

func TestRecordRoundTrip(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"full":      func(*Record) {},
		"no vector": func(r *Record) { r.Vector, r.Space, r.Partition = nil, "", [32]byte{} },
		"bare": func(r *Record) {
			*r = Record{ID: 7, Created: time.UnixMilli(0), Expires: time.UnixMilli(-5), Canonical: []byte{}}
		},
	} {
		r := sample()
		change(r)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		answer, err := DecodeAnswer(r.ID, AppendAnswer([]byte("prefix"), r.ID, r.Answer)[len("prefix"):])
		if err != nil || string(answer) != string(r.Answer) {
			t.Errorf("%s: answer %q %v", name, answer, err)
		}
		got, err := decode(r.ID, AppendMeta(nil, r, 5))
		r.Answer = nil
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: %v\n%+v\n%+v", name, err, got, r)
		}
	}
}

func TestDamageIsNoticed(t *testing.T) {
	meta, answer := AppendMeta(nil, sample(), 5), AppendAnswer(nil, 7, []byte("answer"))
	for _, value := range [][]byte{meta, answer} {
		read := func(id uint64, b []byte) error {
			if &value[0] == &answer[0] {
				_, err := DecodeAnswer(id, b)
				return err
			}
			_, err := decode(id, b)
			return err
		}
		for i := range value {
			bad := append([]byte{}, value...)
			bad[i] ^= 0x10
			if err := read(7, bad); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("bit flipped at %d: %v", i, err)
			}
			if err := read(7, value[:i]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
		if err := read(8, value); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a value under another ID: %v", err)
		}
		newer := append([]byte{}, value[:len(value)-4]...)
		newer[0] = 99
		newer = binary.LittleEndian.AppendUint32(newer, checksum(7, newer))
		if err := read(7, newer); !errors.Is(err, ErrVersion) {
			t.Errorf("a newer version: %v", err)
		}
	}
}

func TestMetadataNeedsItsGeneration(t *testing.T) {
	meta := AppendMeta(nil, sample(), 6)
	if _, err := decode(7, meta); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an unknown generation: %v", err)
	}
	r, err := NewDecoder(map[uint32]Space{6: {"other", 2}}).Meta(7, meta)
	if err != nil || r.Space != "other" {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := NewDecoder(map[uint32]Space{6: {"other", 3}}).Meta(7, meta); !errors.Is(err, ErrCorrupt) {
		t.Errorf("other dimensions: %v", err)
	}
	if at, err := MetaExpires(7, meta); err != nil || !at.Equal(sample().Expires) {
		t.Errorf("expires %v %v", at, err)
	}
}

func TestLimits(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"canonical": func(r *Record) { r.Canonical = make([]byte, MaxText+1) },
		"answer":    func(r *Record) { r.Answer = make([]byte, MaxText+1) },
		"prompt":    func(r *Record) { r.Prompt = strings.Repeat("x", MaxText+1) },
		"tags":      func(r *Record) { r.Tags = make([]string, MaxTags+1) },
		"tag":       func(r *Record) { r.Tags = []string{strings.Repeat("x", MaxName+1)} },
		"model":     func(r *Record) { r.Model = strings.Repeat("x", MaxName+1) },
		"vector":    func(r *Record) { r.Vector = make([]float32, MaxVector+1) },
	} {
		r := sample()
		change(r)
		if err := r.Check(); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", name, err)
		}
	}
	if err := (&Record{}).Check(); err == nil {
		t.Error("a record without an ID was accepted")
	}
}

// FuzzDecodeMeta signs what the fuzzer makes up, so that it gets past the checksum.
func FuzzDecodeMeta(f *testing.F) {
	meta := AppendMeta(nil, sample(), 5)
	f.Add(meta[:len(meta)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		signed := binary.LittleEndian.AppendUint32(append([]byte{}, b...), checksum(7, b))
		r, err := decode(7, signed)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		r.Answer = make([]byte, r.AnswerBytes)
		own := NewDecoder(map[uint32]Space{5: {r.Space, len(r.Vector)}})
		again, err := own.Meta(7, AppendMeta(nil, r, 5))
		if err != nil || again.Prompt != r.Prompt || !reflect.DeepEqual(again.Tags, r.Tags) {
			t.Fatalf("%v %+v %+v", err, again, r)
		}
	})
}
