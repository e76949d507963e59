# Prints a line and ends with exit status 1.
    .globl main
    .type main, @function
main:
    print "hello from a guest\n"
    exit 0
    .size main, . - main
