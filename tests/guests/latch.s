# Leaves the serial port and the local APIC in states that a recording from the middle has to know: writes 1 to port
# 0x80 with the divisor latch switched in and a task priority of 5, writes 2 there while the port loops back, and prints
# «seen» between and behind. Bytes that go to the divisor or come back are no output. Ends with exit status 15.
    .globl main
    .type main, @function
main:
    movl $0x5f, 0xfee00080
    movb $0x83, %al
    movl $0x3fb, %edx
    outb %al, %dx
    movb $1, %al
    outb %al, $0x80
    movb $'X', %al
    movl $0x3f8, %edx
    outb %al, %dx
    movb $3, %al
    movl $0x3fb, %edx
    outb %al, %dx
    print "seen "
    movb $0x10, %al
    movl $0x3fc, %edx
    outb %al, %dx
    movb $2, %al
    outb %al, $0x80
    movb $'Y', %al
    movl $0x3f8, %edx
    outb %al, %dx
    xorl %eax, %eax
    movl $0x3fc, %edx
    outb %al, %dx
    print "seen\n"
    movl $0, 0xfee00080
    exit 7
    .size main, . - main
