/* A Multiboot 1 kernel that says one character on COM1 and stops: the first instructions a guest can run. */
    .code32
    .section .text
    .align 4
header:
    .long 0x1badb002, 0, -0x1badb002
    .globl _start
_start:
    movw $0x3f8, %dx
    movb $'!', %al
    outb %al, %dx
    movb $'\n', %al
    outb %al, %dx
1:  hlt
    jmp 1b
