# Sends back every byte that comes in at COM1, in capitals; a «q» ends it with exit status 3.
    .globl main
    .type main, @function
main:
    movl $0x3fd, %edx
    inb %dx, %al
    testb $1, %al
    jz main
    movl $0x3f8, %edx
    inb %dx, %al
    incl received
    cmpb $0x71, %al
    je done
    cmpb $0x61, %al
    jb send
    cmpb $0x7a, %al
    ja send
    subb $0x20, %al
send:
    outb %al, %dx
    jmp main
done:
    exit 1
    .size main, . - main

    .bss
    .balign 4
    .globl received
    .type received, @object
    .size received, 4
received:
    .skip 4
