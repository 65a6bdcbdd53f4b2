package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

func TestServeFindsWhatItWasGiven(t *testing.T) {
	const n, dims, k = 200, 16, 3
	rng := rand.New(rand.NewPCG(1, 1))
	rows := make([]float32, n*dims)
	for i := range rows {
		rows[i] = float32(rng.NormFloat64())
	}
	var in, out bytes.Buffer
	send := func(v any) {
		if err := binary.Write(&in, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	send([6]uint32{'B', n, dims, 16, 200, 2})
	send(rows)
	send([6]uint32{'A', n, dims, k, 64, 0})
	send(rows)
	if err := serve(bufio.NewReader(&in), bufio.NewWriter(&out)); err != nil {
		t.Fatal(err)
	}
	var filled struct{ Rate, Bytes float64 }
	var answers [n]struct {
		Nanoseconds uint32
		Rows        [k]uint32
	}
	var allocations uint64
	for _, v := range []any{&filled, &answers, &allocations} {
		if err := binary.Read(&out, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() != 0 || filled.Rate <= 0 || filled.Bytes <= 0 || math.IsInf(filled.Rate, 0) || allocations == 0 {
		t.Errorf("%d bytes left over, filled %+v, %d allocations", out.Len(), filled, allocations)
	}
	found := 0
	for i, a := range answers {
		if a.Rows[0] == uint32(i) && a.Nanoseconds > 0 {
			found++
		}
	}
	if found < n*99/100 {
		t.Errorf("%d of %d vectors find themselves", found, n)
	}
}
