package drill

import (
	"strings"
	"testing"
)

// TestModelNotices: a drill is worth what its model notices.
func TestModelNotices(t *testing.T) {
	const said = "P 8 1\nA 8 1\n" + // durable
		"P 9 2\nP 9 3\nA 9 2\n" + // durable, perhaps replaced
		"P 10 4\nA 10 4\nD 10 5\nA 10 5\n" + // gone
		"P 11 6\nD 11 7\n" + // anything
		"P 12 8\nE 12 8 disk\n" + // failed: there or not
		"B a lookup\nP 13 9"
	for _, c := range []struct {
		id             uint64
		got            state
		lost, invented int
	}{
		{id: 8, got: state{op: 1}},
		{id: 8, got: state{gone: true}, lost: 1},
		{id: 8, got: state{op: 2}, lost: 1},
		{id: 9, got: state{op: 2}},
		{id: 9, got: state{op: 3}},
		{id: 9, got: state{gone: true}, lost: 1},
		{id: 10, got: state{gone: true}},
		{id: 10, got: state{op: 4}, invented: 1},
		{id: 11, got: state{op: 6}},
		{id: 11, got: state{gone: true, op: 7}},
		{id: 12, got: state{gone: true}},
		{id: 12, got: state{op: 8}},
		{id: 13, got: state{gone: true}}, // its line was cut off
		{id: 13, got: state{op: 9}, invented: 1},
		{id: 14, got: state{op: 1}, invented: 1},
	} {
		y, m := new(tally), make(model)
		if m.hear(y, strings.NewReader(said)) || y.acked != 4 || y.failed != 1 || y.corrupt != 1 {
			t.Fatalf("heard %+v", y)
		}
		m.judge(y, c.id, c.got)
		if y.lost != c.lost || y.invented != c.invented || len(m[c.id]) > 1 {
			t.Errorf("%+v: lost %d, invented %d, then %v", c, y.lost, y.invented, m[c.id])
		}
	}
}
