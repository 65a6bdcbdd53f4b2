//go:build !purego

#include "textflag.h"

// func dotInt8AllAVX2(out *int32, q *int8, n int, rows *int8, count int)
//
// The bytes of the question lose their sign to those of the row, so that they can be
// multiplied as unsigned ones: 127*127*2 fits into a word.
TEXT ·dotInt8AllAVX2(SB), NOSPLIT, $0-40
	MOVQ     out+0(FP), R8
	MOVQ     q+8(FP), R9
	MOVQ     n+16(FP), R10
	MOVQ     rows+24(FP), DI
	MOVQ     count+32(FP), R13
	VPCMPEQW Y15, Y15, Y15
	VPSRLW   $15, Y15, Y15 // words of one

row:
	MOVQ  R9, SI
	MOVQ  R10, CX
	VPXOR Y0, Y0, Y0

part:
	VMOVDQU    (SI), Y2
	VPABSB     Y2, Y3
	VMOVDQU    (DI), Y4
	VPSIGNB    Y2, Y4, Y4
	VPMADDUBSW Y4, Y3, Y3
	VPMADDWD   Y15, Y3, Y3
	VPADDD     Y3, Y0, Y0
	ADDQ       $32, SI
	ADDQ       $32, DI
	SUBQ       $32, CX
	JNZ        part

	VEXTRACTI128 $1, Y0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0x4E, X0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0xB1, X0, X1
	VPADDD       X1, X0, X0
	VMOVD        X0, (R8)
	ADDQ         $4, R8
	DECQ         R13
	JNZ          row

	VZEROUPPER
	RET

// func dotInt8AllVNNI(out *int32, q *int8, n int, rows *int8, count int)
//
// VPDPBUSD multiplies unsigned bytes by signed ones. The question is made unsigned by
// adding 128, and 128 times the sum of the row is taken away again.
TEXT ·dotInt8AllVNNI(SB), NOSPLIT, $0-40
	MOVQ         out+0(FP), R8
	MOVQ         q+8(FP), R9
	MOVQ         n+16(FP), R10
	MOVQ         rows+24(FP), DI
	MOVQ         count+32(FP), R13
	MOVL         $0x80808080, AX
	VPBROADCASTD AX, Y15

rowv:
	MOVQ   R9, SI
	MOVQ   R10, CX
	VPXORD Y0, Y0, Y0
	VPXORD Y1, Y1, Y1
	VPXORD Y2, Y2, Y2
	VPXORD Y3, Y3, Y3
	SUBQ   $64, CX
	JB     lastv

partv:
	VPXORD   (SI), Y15, Y4
	VPXORD   32(SI), Y15, Y5
	VMOVDQU  (DI), Y6
	VMOVDQU  32(DI), Y7
	VPDPBUSD Y6, Y4, Y0
	VPDPBUSD Y6, Y15, Y1
	VPDPBUSD Y7, Y5, Y2
	VPDPBUSD Y7, Y15, Y3
	ADDQ     $64, SI
	ADDQ     $64, DI
	SUBQ     $64, CX
	JAE      partv

lastv:
	ADDQ     $64, CX
	JZ       totalv
	VPXORD   (SI), Y15, Y4
	VMOVDQU  (DI), Y6
	VPDPBUSD Y6, Y4, Y0
	VPDPBUSD Y6, Y15, Y1
	ADDQ     $32, DI

totalv:
	VPADDD       Y2, Y0, Y0
	VPADDD       Y3, Y1, Y1
	VPSUBD       Y1, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0x4E, X0, X1
	VPADDD       X1, X0, X0
	VPSHUFD      $0xB1, X0, X1
	VPADDD       X1, X0, X0
	VMOVD        X0, (R8)
	ADDQ         $4, R8
	DECQ         R13
	JNZ          rowv

	VZEROUPPER
	RET

DATA magnitude<>+0(SB)/4, $0x7fffffff
GLOBL magnitude<>(SB), RODATA|NOPTR, $4

DATA half<>+0(SB)/4, $0.5
GLOBL half<>(SB), RODATA|NOPTR, $4

DATA order<>+0(SB)/4, $0
DATA order<>+4(SB)/4, $4
DATA order<>+8(SB)/4, $1
DATA order<>+12(SB)/4, $5
DATA order<>+16(SB)/4, $2
DATA order<>+20(SB)/4, $6
DATA order<>+24(SB)/4, $3
DATA order<>+28(SB)/4, $7
GLOBL order<>(SB), RODATA|NOPTR, $32

// func mostAVX2(v *float32, n int) float32
TEXT ·mostAVX2(SB), NOSPLIT, $0-20
	MOVQ         v+0(FP), SI
	MOVQ         n+8(FP), CX
	VBROADCASTSS magnitude<>(SB), Y3
	VXORPS       Y0, Y0, Y0
	VXORPS       Y1, Y1, Y1

sixteen:
	VANDPS (SI), Y3, Y4
	VANDPS 32(SI), Y3, Y5
	VMAXPS Y4, Y0, Y0
	VMAXPS Y5, Y1, Y1
	ADDQ   $64, SI
	SUBQ   $16, CX
	JNZ    sixteen

	VMAXPS       Y1, Y0, Y0
	VEXTRACTF128 $1, Y0, X1
	VMAXPS       X1, X0, X0
	VPERMILPS    $0x4E, X0, X1
	VMAXPS       X1, X0, X0
	VPERMILPS    $0xB1, X0, X1
	VMAXPS       X1, X0, X0
	VZEROUPPER
	MOVSS        X0, ret+16(FP)
	RET

// Y0 = the integers nearest to the eight floats at off, ties away from zero.
#define ROUND(off, reg) \
	VMULPS      off(SI), Y10, reg \
	VANDNPS     reg, Y11, Y9      \
	VORPS       Y12, Y9, Y9       \
	VADDPS      Y9, reg, reg      \
	VCVTTPS2DQ  reg, reg

// func roundAVX2(dst *int8, v *float32, n int, f float32)
TEXT ·roundAVX2(SB), NOSPLIT, $0-28
	MOVQ         dst+0(FP), DI
	MOVQ         v+8(FP), SI
	MOVQ         n+16(FP), CX
	VBROADCASTSS f+24(FP), Y10
	VBROADCASTSS magnitude<>(SB), Y11
	VBROADCASTSS half<>(SB), Y12
	VMOVDQU      order<>(SB), Y13

more:
	ROUND(0, Y0)
	ROUND(32, Y1)
	ROUND(64, Y2)
	ROUND(96, Y3)
	VPACKSSDW Y1, Y0, Y0
	VPACKSSDW Y3, Y2, Y2
	VPACKSSWB Y2, Y0, Y0
	VPERMD    Y0, Y13, Y0
	VMOVDQU   Y0, (DI)
	ADDQ      $32, DI
	ADDQ      $128, SI
	SUBQ      $32, CX
	JNZ       more

	VZEROUPPER
	RET
