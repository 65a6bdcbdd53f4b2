//go:build amd64 && !purego

package vec

// What is chosen on this machine may leave these out.
func init() {
	nears["avx2"] = near2
	int8Alls["avx2"] = dotInt8All2
}
