//go:build !amd64 || purego

package vec

func walsh(v, signs []float32) { walshGo(v, signs) }
