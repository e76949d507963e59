//! Each instruction by its table in the manual, and anything at all for its bounds.

use super::*;

/// Registers count up from 100; memory from 0x1000 on holds the low byte of each address, one page of it.
struct Sample;

impl Subject for Sample {
    fn register(&mut self, number: usize) -> Option<u64> {
        (number < 66).then_some(100 + number as u64)
    }

    fn read(&mut self, addr: u64, out: &mut [u8]) -> usize {
        for (i, byte) in out.iter_mut().enumerate() {
            let at = addr.wrapping_add(i as u64);
            if !(0x1000..0x2000).contains(&at) {
                return i;
            }
            *byte = if at == 0x1048 { 0 } else { at as u8 };
        }
        out.len()
    }
}

fn run(code: &[u8]) -> Result<Option<u64>, Failure> {
    let program = Program::new(code).unwrap_or_else(|e| panic!("{code:x?}: {e}"));
    program.run(&mut Sample, &mut Vec::new())
}

fn constant(value: u64) -> Vec<u8> {
    [&[0x25][..], &value.to_be_bytes()].concat()
}

/// The value of `a OP b`.
fn binary(op: u8, a: i64, b: i64) -> Result<Option<u64>, Failure> {
    run(&[constant(a as u64), constant(b as u64), vec![op, 0x27]].concat())
}

#[test]
fn arithmetic() {
    let min = i64::MIN;
    for (op, a, b, want) in [
        (0x02, -1, 2, 1),
        (0x02, i64::MAX, 1, min),
        (0x03, 3, 5, -2),
        (0x04, -3, 5, -15),
        (0x05, -7, 2, -3),
        (0x05, min, -1, min),
        (0x06, -1, 2, i64::MAX),
        (0x07, -7, 2, -1),
        (0x07, min, -1, 0),
        (0x08, -1, 10, 5),
        (0x09, 1, 63, min),
        (0x09, 1, 64, 0),
        (0x0a, min, 63, -1),
        (0x0a, min, 1000, -1),
        (0x0b, min, 63, 1),
        (0x0b, -1, 64, 0),
        (0x0f, 12, 10, 8),
        (0x10, 12, 10, 14),
        (0x11, 12, 10, 6),
        (0x13, 7, 7, 1),
        (0x13, 7, 8, 0),
        (0x14, -1, 0, 1),
        (0x14, 0, 0, 0),
        (0x15, -1, 0, 0),
        (0x15, 0, -1, 1),
    ] {
        assert_eq!(binary(op, a, b), Ok(Some(want as u64)), "{a} {op:#x} {b}");
    }
    for op in 5..=8 {
        assert_eq!(binary(op, 1, 0), Err(Failure::Division));
    }
}

#[test]
fn one_operand_and_the_stack() {
    assert_eq!(run(&[0x22, 0, 0x0e, 0x27]), Ok(Some(1)));
    assert_eq!(run(&[0x22, 9, 0x0e, 0x27]), Ok(Some(0)));
    assert_eq!(run(&[0x22, 0, 0x12, 0x27]), Ok(Some(u64::MAX)));
    assert_eq!(run(&[0x22, 0x80, 0x16, 8, 0x27]), Ok(Some(-128i64 as u64)));
    assert_eq!(run(&[0x22, 0x80, 0x16, 64, 0x27]), Ok(Some(0x80)));
    assert_eq!(run(&[0x23, 0x12, 0x34, 0x2a, 8, 0x27]), Ok(Some(0x34)));
    assert_eq!(run(&[0x24, 1, 2, 3, 4, 0x27]), Ok(Some(0x0102_0304)));
    assert_eq!(run(&[0x26, 0, 16, 0x27]), Ok(Some(116)));
    assert_eq!(run(&[0x26, 1, 0, 0x27]), Err(Failure::Register(256)));
    assert_eq!(run(&[0x27]), Ok(None));
    // dup mul; swap sub; pick 1; rot
    assert_eq!(run(&[0x22, 7, 0x28, 0x04, 0x27]), Ok(Some(49)));
    assert_eq!(run(&[0x22, 1, 0x22, 5, 0x2b, 0x03, 0x27]), Ok(Some(4)));
    assert_eq!(run(&[0x22, 1, 0x22, 5, 0x32, 1, 0x27]), Ok(Some(1)));
    assert_eq!(
        run(&[0x22, 1, 0x22, 2, 0x22, 3, 0x33, 0x27]),
        Ok(Some(2)),
        "1 2 3 becomes 3 1 2"
    );
    assert_eq!(
        run(&[0x22, 1, 0x22, 2, 0x22, 3, 0x33, 0x29, 0x29, 0x27]),
        Ok(Some(3))
    );
    // Collecting trace data leaves what lies below.
    assert_eq!(
        run(&[0x22, 1, 0x22, 2, 0x0d, 8, 0x30, 0, 8, 0x22, 3, 0x0c, 0x27]),
        Ok(Some(1))
    );
}

#[test]
fn memory() {
    for (op, want) in [
        (0x17, 0x01),
        (0x18, 0x0201),
        (0x19, 0x0403_0201),
        (0x1a, 0x0807_0605_0403_0201u64),
    ] {
        assert_eq!(run(&[0x23, 0x10, 0x01, op, 0x27]), Ok(Some(want)));
    }
    assert_eq!(
        run(&[0x23, 0x1f, 0xfd, 0x19, 0x27]),
        Err(Failure::Memory(0x1ffd))
    );
}

#[test]
fn jumps() {
    // reg 0 == 100 ? 5 : 6
    let code = [
        0x26, 0, 0, 0x22, 100, 0x13, 0x20, 0, 14, 0x22, 6, 0x21, 0, 16, 0x22, 5, 0x27,
    ];
    assert_eq!(run(&code), Ok(Some(5)));
    let mut other = code;
    other[4] = 99;
    assert_eq!(run(&other), Ok(Some(6)));
    assert_eq!(
        run(&[0x21, 0, 0]),
        Err(Failure::Steps),
        "an endless loop ends"
    );
}

#[test]
fn what_is_wrong_is_refused() {
    for (code, want) in [
        (&[][..], Invalid::CutShort(0)),
        (&[0x22, 1], Invalid::CutShort(2)),
        (&[0x22], Invalid::CutShort(1)),
        (&[0x25, 1, 2], Invalid::CutShort(3)),
        (&[0x00, 0x27], Invalid::Unknown(0, 0)),
        (&[0x31, 0x27], Invalid::Unknown(0, 0x31)),
        (&[0x27, 0xff], Invalid::Unknown(1, 0xff)),
        (&[0x02, 0x27], Invalid::Stack(0)),
        (&[0x22, 1, 0x32, 1, 0x27], Invalid::Stack(2)),
        (&[0x22, 1, 0x21, 0, 0], Invalid::Stack(0)),
        (&[0x22, 1, 0x16, 0, 0x27], Invalid::Width(3, 0)),
        (&[0x22, 1, 0x2a, 65, 0x27], Invalid::Width(3, 65)),
        (&[0x21, 0, 1, 0x27], Invalid::Jump(1)),
        (&[0x21, 0, 9, 0x27], Invalid::Jump(9)),
        (
            &[0x2c, 0, 1, 0x27],
            Invalid::Unsupported("a trace state variable"),
        ),
        (&[0x1b, 0x27], Invalid::Unsupported("floating point")),
    ] {
        assert_eq!(Program::new(code), Err(want), "{code:x?}");
    }
    let deep = [[0x22, 1].repeat(STACK_MAX + 1), vec![0x27]].concat();
    assert_eq!(Program::new(&deep), Err(Invalid::Stack(2 * STACK_MAX)));
    let full = [[0x22, 1].repeat(STACK_MAX), vec![0x27]].concat();
    assert_eq!(run(&full), Ok(Some(1)));
}

/// A `printf` of these arguments as GDB writes it.
fn printf(format: &str, arguments: &[u64]) -> Vec<u8> {
    let mut code: Vec<u8> = arguments.iter().rev().flat_map(|&n| constant(n)).collect();
    code.extend([0x22, 0, 0x22, 0, 0x34, arguments.len() as u8]);
    code.extend((format.len() as u16 + 1).to_be_bytes());
    code.extend(format.as_bytes());
    code.extend([0, 0x27]);
    code
}

fn printed(format: &str, arguments: &[u64]) -> String {
    let program = Program::new(&printf(format, arguments)).unwrap();
    let mut out = Vec::new();
    assert!(program.prints());
    assert_eq!(program.run(&mut Sample, &mut out), Ok(None));
    String::from_utf8(out).unwrap()
}

#[test]
fn texts() {
    let minus = -5i64 as u64;
    for (format, arguments, want) in [
        ("plain 100%%\n", &[][..], "plain 100%\n"),
        (r#"\t\\ \"%d\"\n"#, &[1], "\t\\ \"1\"\n"),
        ("%d %u|", &[minus, minus], "-5 4294967291|"),
        ("%ld %lu", &[minus, 7], "-5 7"),
        (
            "%5d|%-5d|%05d|%+d|% d",
            &[42, 42, minus, 42, 42],
            "   42|42   |-0005|+42| 42",
        ),
        (
            "%x %X %#x %#o %lx",
            &[255, 255, 255, 8, u64::MAX],
            "ff FF 0xff 010 ffffffffffffffff",
        ),
        ("%hhd %hd", &[0x1ff, 0x1_8000], "-1 -32768"),
        ("%.4d %.0d| %8.3x", &[7, 0, 0xab], "0007 |      0ab"),
        ("%p %c", &[0x1234, 65], "0x1234 A"),
        (
            "%s|%.2s|%8s|%-3s|",
            &[0x1041, 0x1041, 0x1047, 0x1047],
            "ABCDEFG|AB|       G|G  |",
        ),
        ("%s", &[0], "(null)"),
    ] {
        assert_eq!(printed(format, arguments), want, "{format}");
    }
    let program = Program::new(&printf("%s", &[0x1ffe])).unwrap();
    let mut out = Vec::new();
    program.run(&mut Sample, &mut out).unwrap();
    assert_eq!(out, b"\xfe\xff<cannot be read>");
    for bad in [r"\q", "\\", "%f", "%*d", "%", "%lc", "%ls", "%n", "%d"] {
        let code = printf(bad, if bad == "%d" { &[] } else { &[1] });
        assert!(
            matches!(Program::new(&code), Err(Invalid::Format(_))),
            "{bad}"
        );
    }
    let mut unterminated = printf("ab", &[]);
    let end = unterminated.len() - 2;
    unterminated[end] = b'c';
    assert!(matches!(
        Program::new(&unterminated),
        Err(Invalid::Format(_))
    ));
    // However long, there is an end to it.
    let many = "%1000d".repeat(60);
    assert_eq!(printed(&many, &[1; 60]).len(), PRINTED_BYTES_MAX);
}

#[test]
fn anything_at_all_is_refused_or_ends() {
    let seed = 0x5eed_0001;
    let mut random = fastrand::Rng::with_seed(seed);
    let good: [Vec<u8>; 4] = [
        vec![
            0x26, 0, 0, 0x22, 100, 0x13, 0x20, 0, 14, 0x22, 6, 0x21, 0, 16, 0x22, 5, 0x27,
        ],
        vec![
            0x23, 0x10, 0x01, 0x1a, 0x22, 3, 0x09, 0x16, 32, 0x28, 0x2b, 0x33, 0x27,
        ],
        printf("%d %-20s|%#lx\n", &[1, 0x1041, 3]),
        vec![0x22, 5, 0x22, 1, 0x03, 0x28, 0x20, 0, 2, 0x27],
    ];
    let (mut taken, mut finished) = (0, 0);
    for round in 0..60_000 {
        let mut code = if round % 3 == 0 {
            let length = random.usize(0..40);
            let mut code: Vec<u8> = (0..length).map(|_| random.u8(0..0x36)).collect();
            code.push(0x27);
            code
        } else {
            good[random.usize(0..good.len())].clone()
        };
        for _ in 0..random.usize(0..4) {
            let at = random.usize(0..code.len());
            match random.u8(0..4) {
                0 => code[at] = random.u8(..),
                1 => code[at] = random.u8(0..0x36),
                2 => drop(code.remove(at)),
                _ => code.insert(at, random.u8(0..0x36)),
            }
            if code.is_empty() {
                break;
            }
        }
        let Ok(program) = Program::new(&code) else {
            continue;
        };
        taken += 1;
        let mut out = Vec::new();
        finished += usize::from(program.run(&mut Sample, &mut out).is_ok());
        assert!(out.len() <= PRINTED_BYTES_MAX);
    }
    assert!(
        taken > 5_000 && finished > 3_000,
        "seed {seed:#x}: {taken} {finished}"
    );
}
