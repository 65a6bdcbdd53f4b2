//go:build !purego

#include "textflag.h"

// Thirty-two products at a time: bytes are widened to words, multiplied and added in
// pairs.
#define PRODUCTS(a, b) \
	VPMOVSXBW (a), Y4     \
	VPMOVSXBW (b), Y5     \
	VPMOVSXBW 16(a), Y6   \
	VPMOVSXBW 16(b), Y7   \
	VPMADDWD  Y5, Y4, Y4  \
	VPMADDWD  Y7, Y6, Y6  \
	VPADDD    Y4, Y0, Y0  \
	VPADDD    Y6, Y1, Y1

#define TOTAL(reg) \
	VPADDD       Y1, Y0, Y0      \
	VEXTRACTI128 $1, Y0, X1      \
	VPADDD       X1, X0, X0      \
	VPSHUFD      $0x4E, X0, X1   \
	VPADDD       X1, X0, X0      \
	VPSHUFD      $0xB1, X0, X1   \
	VPADDD       X1, X0, X0      \
	VMOVD        X0, reg

// func dotInt8AVX2(a, b *int8, n int) int32
TEXT ·dotInt8AVX2(SB), NOSPLIT, $0-28
	MOVQ  a+0(FP), SI
	MOVQ  b+8(FP), DI
	MOVQ  n+16(FP), CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1

loop:
	PRODUCTS(SI, DI)
	ADDQ $32, SI
	ADDQ $32, DI
	SUBQ $32, CX
	JNZ  loop

	TOTAL(AX)
	VZEROUPPER
	MOVL AX, ret+24(FP)
	RET

// func dotInt8RowsAVX2(out *int32, q *int8, n int, rows *int8, at *uint32, count int)
//
// While one row is multiplied, the next but one is fetched, line by line.
TEXT ·dotInt8RowsAVX2(SB), NOSPLIT, $0-48
	MOVQ out+0(FP), R8
	MOVQ q+8(FP), R9
	MOVQ n+16(FP), R10
	MOVQ rows+24(FP), R11
	MOVQ at+32(FP), R12
	MOVQ count+40(FP), R13

row:
	// R14: the row to be fetched, the last one again at the end
	MOVQ    $2, AX
	CMPQ    R13, $3
	JGE     ahead
	LEAQ    -1(R13), AX

ahead:
	MOVL  (R12)(AX*4), R14
	IMULQ R10, R14
	ADDQ  R11, R14
	MOVL  (R12), DI
	IMULQ R10, DI
	ADDQ  R11, DI
	MOVQ  R9, SI
	MOVQ  R10, CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1

part:
	PREFETCHT0 (R14)
	PRODUCTS(SI, DI)
	ADDQ $32, SI
	ADDQ $32, DI
	ADDQ $32, R14
	SUBQ $32, CX
	JNZ  part

	TOTAL(AX)
	MOVL AX, (R8)
	ADDQ $4, R8
	ADDQ $4, R12
	DECQ R13
	JNZ  row

	VZEROUPPER
	RET

// func dotMixedAVX2(a *float32, b *int8, n int) float32
TEXT ·dotMixedAVX2(SB), NOSPLIT, $0-28
	MOVQ   a+0(FP), SI
	MOVQ   b+8(FP), DI
	MOVQ   n+16(FP), CX
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3

mixed:
	VPMOVSXBD   (DI), Y4
	VPMOVSXBD   8(DI), Y5
	VPMOVSXBD   16(DI), Y6
	VPMOVSXBD   24(DI), Y7
	VCVTDQ2PS   Y4, Y4
	VCVTDQ2PS   Y5, Y5
	VCVTDQ2PS   Y6, Y6
	VCVTDQ2PS   Y7, Y7
	VFMADD231PS (SI), Y4, Y0
	VFMADD231PS 32(SI), Y5, Y1
	VFMADD231PS 64(SI), Y6, Y2
	VFMADD231PS 96(SI), Y7, Y3
	ADDQ        $128, SI
	ADDQ        $32, DI
	SUBQ        $32, CX
	JNZ         mixed

	VADDPS       Y1, Y0, Y0
	VADDPS       Y3, Y2, Y2
	VADDPS       Y2, Y0, Y0
	VEXTRACTF128 $1, Y0, X1
	VADDPS       X1, X0, X0
	VHADDPS      X0, X0, X0
	VHADDPS      X0, X0, X0
	VZEROUPPER
	MOVSS        X0, ret+24(FP)
	RET
