//go:build !purego

#include "textflag.h"

DATA int4Low<>+0(SB)/8, $0x0f0f0f0f0f0f0f0f
GLOBL int4Low<>(SB), RODATA|NOPTR, $8

DATA int4Ones<>+0(SB)/8, $0x0001000100010001
GLOBL int4Ones<>(SB), RODATA|NOPTR, $8

// AHEAD is how many rows are fetched before the first is multiplied. Of 384 components, far
// apart, a row took 37 ns with 4, 26 with 6, 25 with 8 and 27 with 12 (BenchmarkDotInt4Rows,
// Xeon with AVX2).
#define AHEAD 8

// ADDRESS makes reg the address of row reg of the table: chunk R11[reg>>CX], with R10
// bytes per row and the mask BX. It changes AX.
#define ADDRESS(reg) \
	MOVQ  reg, AX            \
	SHRQ  CX, AX             \
	LEAQ  (AX)(AX*2), AX     \
	ANDQ  BX, reg            \
	IMULQ R10, reg           \
	ADDQ  (R11)(AX*8), reg

// func dotInt4RowsAVX2(out *int32, q *int8, n int, chunks *[]byte, shift uint, at *uint32, count int)
//
// AHEAD rows are fetched before the first is multiplied, and then with each row the one as
// far after it. The halves of a byte are unsigned, so VPMADDUBSW can multiply them with the
// signed bytes of q and add pairs: at most 2*15*128 in
// magnitude, of which eight fit a 16-bit lane. So after eight blocks at most, the lanes
// are widened.
TEXT ·dotInt4RowsAVX2(SB), NOSPLIT, $0-56
	MOVQ         out+0(FP), R8
	MOVQ         q+8(FP), R9
	MOVQ         n+16(FP), R10
	MOVQ         chunks+24(FP), R11
	MOVQ         shift+32(FP), CX
	MOVQ         at+40(FP), R12
	MOVQ         count+48(FP), R13
	SHRQ         $1, R10
	MOVQ         $1, BX
	SHLQ         CX, BX
	DECQ         BX
	VPBROADCASTQ int4Low<>(SB), Y15
	VPBROADCASTQ int4Ones<>(SB), Y14

	MOVQ    $AHEAD, DX
	CMPQ    R13, DX
	CMOVQLT R13, DX

first:
	DECQ DX
	MOVL (R12)(DX*4), SI
	ADDRESS(SI)
	MOVQ R10, DI

firstLine:
	PREFETCHT0 -32(SI)(DI*1)
	SUBQ       $64, DI
	JGT        firstLine
	TESTQ      DX, DX
	JNZ        first

row:
	// R14: the row to be fetched, the last one at the end
	MOVQ    $AHEAD, AX
	LEAQ    -1(R13), DX
	CMPQ    DX, AX
	CMOVQLT DX, AX
	MOVL    (R12)(AX*4), R14
	ADDRESS(R14)
	MOVL    (R12), DI
	ADDRESS(DI)
	MOVQ    R9, SI
	MOVQ    R10, DX
	VPXOR   Y0, Y0, Y0

part:
	// up to eight blocks of 32 bytes
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	MOVQ  DX, AX
	CMPQ  AX, $256
	JLE   rest
	MOVQ  $256, AX

rest:
	SUBQ AX, DX

block:
	PREFETCHT0 (R14)
	VMOVDQU    (DI), Y3
	VPSRLW     $4, Y3, Y4
	VPAND      Y15, Y3, Y3
	VPAND      Y15, Y4, Y4
	VPMADDUBSW (SI), Y3, Y3
	VPMADDUBSW 32(SI), Y4, Y4
	VPADDW     Y3, Y1, Y1
	VPADDW     Y4, Y2, Y2
	ADDQ       $64, SI
	ADDQ       $32, DI
	ADDQ       $32, R14
	SUBQ       $32, AX
	JNZ        block

	VPMADDWD Y14, Y1, Y1
	VPMADDWD Y14, Y2, Y2
	VPADDD   Y1, Y0, Y0
	VPADDD   Y2, Y0, Y0
	TESTQ    DX, DX
	JNZ      part

	VEXTRACTI128 $1, Y0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0x4E, X0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0xB1, X0, X1
	VPADDD       X1, X0, X0
	VMOVD        X0, (R8)
	ADDQ         $4, R8
	ADDQ         $4, R12
	DECQ         R13
	JNZ          row

	VZEROUPPER
	RET

// func fetch(p *uint32, bytes int)
TEXT ·fetch(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), SI
	MOVQ bytes+8(FP), CX

line:
	PREFETCHT0 (SI)
	ADDQ       $64, SI
	SUBQ       $64, CX
	JGT        line
	RET
