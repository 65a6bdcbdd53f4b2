package vec

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"unsafe"
)

// Norm returns the Euclidean length of v, computed in float64 so that neither
// large nor small components are lost.
func Norm(v []float32) float64 { return math.Sqrt(squares(v)) }

func squaresGo(v []float32) float64 {
	var s0, s1, s2, s3 float64
	for len(v) >= 4 {
		a, b, c, d := float64(v[0]), float64(v[1]), float64(v[2]), float64(v[3])
		s0, s1, s2, s3 = s0+a*a, s1+b*b, s2+c*c, s3+d*d
		v = v[4:]
	}
	for _, x := range v {
		s0 += float64(x) * float64(x)
	}
	return (s0 + s1) + (s2 + s3)
}

// Scale writes v times f, multiplied in float64, to dst, which must be as long.
func Scale(dst, v []float32, f float64) { scale(dst[:len(v)], v, f) }

func scaleGo(dst, v []float32, f float64) {
	for i, x := range v {
		dst[i] = float32(float64(x) * f)
	}
}

// Prefetch asks for v to be brought near the processor. It changes nothing.
func Prefetch[T any](v []T) {
	if len(v) > 0 {
		prefetch(unsafe.Pointer(&v[0]), len(v)*int(unsafe.Sizeof(v[0])))
	}
}

// Same reports whether a and b are equal bit by bit.
func Same(a, b []float32) bool { return bytes.Equal(raw(a), raw(b)) }

// PutBytes writes v to dst as little-endian float32, 4*len(v) bytes.
func PutBytes(dst []byte, v []float32) {
	dst = dst[:4*len(v)]
	if littleEndian {
		copy(dst, raw(v))
		return
	}
	for i, x := range v {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
	}
}

// ReadBytes reads v from r as PutBytes wrote it and returns sum, updated by the CRC-32 of
// the bytes with the polynomial of table. Errors: those of io.ReadFull.
func ReadBytes(r io.Reader, v []float32, sum uint32, table *crc32.Table) (uint32, error) {
	b := raw(v)
	if _, err := io.ReadFull(r, b); err != nil {
		return sum, err
	}
	sum = crc32.Update(sum, table, b)
	if !littleEndian {
		for i := range v {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
	return sum, nil
}

// littleEndian: the memory of floats is as snapshots have them.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// raw returns the memory of v.
func raw(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}
