//go:build !amd64 || purego

package vec

import "unsafe"

func squares(v []float32) float64 { return squaresGo(v) }

func scale(dst, v []float32, f float64) { scaleGo(dst, v, f) }

func prefetch(unsafe.Pointer, int) {}
