package slab

import "testing"

func TestRowsKeepTheirPlaceAndContents(t *testing.T) {
	s := New[uint32](300)
	perChunk := 1 << s.Shift()
	n := 0
	for _, to := range []int{1, 2, 5, 6, 100, perChunk - 1, perChunk, perChunk + 1, 3*perChunk + 7} {
		s.Grow(to)
		for ; n < to; n++ {
			row := s.Row(n)
			if len(row) != 300 || cap(row) != 300 {
				t.Fatalf("row %d has %d elements, room for %d", n, len(row), cap(row))
			}
			row[0], row[299] = uint32(n), uint32(n)
		}
		for i := range n {
			if row := s.Row(i); row[0] != uint32(i) || row[299] != uint32(i) {
				t.Fatalf("of %d rows, %d has %d and %d", n, i, row[0], row[299])
			}
		}
	}
	later := &s.Row(2 * perChunk)[0]
	s.Grow(10 * perChunk)
	if later != &s.Row(2 * perChunk)[0] {
		t.Error("a row has moved")
	}
	if got := s.Bytes(); got < int64(10*perChunk*300*4) {
		t.Errorf("%d bytes", got)
	}
	if s.Clear(); s.Bytes() != 0 {
		t.Errorf("%d bytes after Clear", s.Bytes())
	}
}

func TestSmallTablesAreSmall(t *testing.T) {
	s := New[float32](384)
	for n := range 10 {
		s.Grow(n + 1)
	}
	if got := s.Bytes(); got > 10*384*4+50 {
		t.Errorf("ten rows take %d bytes", got)
	}
}

func TestRowsWiderThanAChunk(t *testing.T) {
	s := New[byte](2 * chunkBytes)
	s.Grow(3)
	s.Row(2)[2*chunkBytes-1] = 1
	if s.Shift() != 0 || len(s.Chunks()) != 3 {
		t.Errorf("shift %d, %d chunks", s.Shift(), len(s.Chunks()))
	}
}

func TestShrinkGivesChunksBack(t *testing.T) {
	s := Sized[uint64](1, 100) // chunks of 64
	if s.Grow(1000); s.Shift() != 6 || len(s.Chunks()) != 16 {
		t.Fatalf("shift %d, %d chunks", s.Shift(), len(s.Chunks()))
	}
	s.Row(129)[0] = 7
	for _, step := range []struct{ rows, chunks int }{{900, 16}, {130, 4}, {128, 3}, {65, 3}, {0, 1}} {
		if s.Shrink(step.rows); len(s.Chunks()) != step.chunks {
			t.Errorf("%d rows: %d chunks, want %d", step.rows, len(s.Chunks()), step.chunks)
		}
		if step.rows > 129 && s.Row(129)[0] != 7 {
			t.Errorf("%d rows: a row is lost", step.rows)
		}
	}
	if s.Grow(200); s.Row(129)[0] != 0 {
		t.Error("a new chunk holds something")
	}
}
