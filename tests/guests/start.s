# Stands before every guest: the PVH note, a stack, and the way out.
    .macro exit code
    movl $\code, %eax
    outl %eax, $0xf4
9:  cli
    hlt
    jmp 9b
    .endm

    .macro print text
    .pushsection .rodata
8:  .asciz "\text"
    .popsection
    movl $8b, %esi
    call print_string
    .endm

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad start

    .bss
    .balign 16
stack:
    .skip 4096
stack_top:

    .text
    .code32
    .globl start
    .type start, @function
start:
    movl $stack_top, %esp
    jmp main
    .size start, . - start

    .type print_string, @function
print_string:
    movb (%esi), %al
    testb %al, %al
    jz 2f
    movb %al, %ah
    movl $0x3fd, %edx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movb %ah, %al
    movl $0x3f8, %edx
    outb %al, %dx
    incl %esi
    jmp print_string
2:  ret
    .size print_string, . - print_string
