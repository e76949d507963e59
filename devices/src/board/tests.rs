use super::*;
use crate::contract::Lcg;

const LINT0: u64 = LAPIC_BASE + 0x350;
const SVR: u64 = LAPIC_BASE + 0xf0;
const EOI: u64 = LAPIC_BASE + 0xb0;
const ICR: u64 = LAPIC_BASE + 0x300;
const LVT_TIMER: u64 = LAPIC_BASE + 0x320;

struct Pc {
    board: Board,
    now_ns: u64,
}

impl Pc {
    fn new(cpus: usize) -> Pc {
        let config = BoardConfig {
            cpus,
            ram_bytes: 256 << 20,
            rtc_epoch_s: 1_700_000_000,
        };
        Pc {
            board: Board::new(&config),
            now_ns: 0,
        }
    }
    fn outb(&mut self, port: u16, values: &[u8]) {
        for &value in values {
            self.board.pio_write(self.now_ns, 0, port, 1, value.into());
        }
    }
    fn inb(&mut self, port: u16) -> u8 {
        self.board.pio_read(self.now_ns, 0, port, 1) as u8
    }
    fn w(&mut self, gpa: u64, value: u64) {
        self.w_by(0, gpa, value);
    }
    fn w_by(&mut self, cpu: usize, gpa: u64, value: u64) {
        self.board.mmio_write(self.now_ns, cpu, gpa, 4, value);
    }
    fn ioapic(&mut self, pin: u64, entry: u64) {
        self.w(IOAPIC_BASE, 0x11 + 2 * pin);
        self.w(IOAPIC_BASE + 0x10, entry >> 32);
        self.w(IOAPIC_BASE, 0x10 + 2 * pin);
        self.w(IOAPIC_BASE + 0x10, entry & 0xffff_ffff);
    }
    fn ack(&mut self, cpu: usize) -> Option<u8> {
        self.board.acknowledge(self.now_ns, cpu)
    }
    /// The PICs as Linux programs them, with these masks.
    fn pics(&mut self, master_mask: u8, slave_mask: u8) {
        self.outb(0x20, &[0x11]);
        self.outb(0x21, &[0x30, 0x04, 0x01, master_mask]);
        self.outb(0xa0, &[0x11]);
        self.outb(0xa1, &[0x38, 0x02, 0x01, slave_mask]);
    }
    /// What a halted processor does: to the next deadline, until something is pending.
    fn sleep(&mut self) -> bool {
        while !self.board.interrupt_pending(0) {
            let Some(at) = self.board.next_deadline_ns() else {
                return false;
            };
            assert!(at >= self.now_ns);
            self.now_ns = at;
            self.board.advance(at);
        }
        true
    }
}

#[test]
fn nobody_home_reads_all_ones() {
    let mut pc = Pc::new(1);
    for port in [0x00, 0x81, 0x2f8, 0x1f7, 0x3d5, 0x22, 0xffff] {
        assert_eq!(pc.inb(port), 0xff, "{port:#x}");
        pc.outb(port, &[0x55]);
    }
    assert_eq!(pc.board.pio_read(0, 0, 0x1f0, 4), 0xffff_ffff);
    assert_eq!(pc.board.pio_read(0, 0, 0xffff, 2), 0xffff);
    assert_eq!(pc.board.mmio_read(0, 0, 0xd000_0000, 8), u64::MAX);
    assert_eq!(
        pc.board.mmio_read(0, 0, 0xfed0_0000, 4),
        0xffff_ffff,
        "no HPET"
    );
    assert_eq!(
        pc.board.mmio_read(0, 9, LAPIC_BASE, 4),
        0xffff_ffff,
        "no such processor"
    );
    assert_eq!(pc.board.msr_read(0, 0, 0x802), None, "no x2APIC");
    assert!(!pc.board.msr_write(0, 0, 0x802, 0));
    assert_eq!(
        pc.board.next_deadline_ns(),
        None,
        "firmware leaves nothing running that anybody hears"
    );
}

#[test]
fn wide_accesses_are_split_by_the_isa_bus_but_not_by_pci() {
    let mut pc = Pc::new(1);
    pc.board.pio_write(0, 0, 0x20, 2, 0x0011);
    pc.board.pio_write(0, 0, COM1 + 7, 1, 0x5a);
    assert_eq!(pc.board.pio_read(0, 0, COM1 + 6, 4), 0xffff_5ab0);
    pc.board.pio_write(0, 0, 0xcf8, 4, 0x8000_0800);
    assert_eq!(pc.board.pio_read(0, 0, 0xcfc, 4), 0x7000_8086);
    assert_eq!(pc.board.pio_read(0, 0, 0xcfe, 2), 0x7000);
    assert_eq!(pc.board.take_power(), None);
    pc.board.pio_write(0, 0, 0xcf8, 2, 0x0600);
    assert_eq!(
        pc.board.take_power(),
        Some(Power::Reset {
            by: crate::ResetBy::ResetControl
        }),
        "0xcf9 by itself"
    );
    pc.now_ns = NS_PER_S;
    let timer = pc.board.pio_read(pc.now_ns, 0, PM_TIMER, 4);
    assert_eq!(timer, 3_579_545);
}

#[test]
fn the_pit_comes_through_the_virtual_wire() {
    let mut pc = Pc::new(1);
    pc.pics(0xfe, 0xff);
    pc.outb(0x43, &[0x34]);
    pc.outb(0x40, &[0x9c, 0x2e]); // 100 Hz
    let mut last_ns = 0;
    for _ in 0..5 {
        assert!(pc.sleep());
        assert_eq!(pc.ack(0), Some(0x30));
        assert_eq!(pc.ack(0), None);
        assert!(
            (pc.now_ns - last_ns).abs_diff(10_000_000) < 2_000,
            "{}",
            pc.now_ns - last_ns
        );
        last_ns = pc.now_ns;
        pc.outb(0x20, &[0x20]);
    }
    pc.w(LINT0, 0x1_0700);
    assert!(!pc.sleep_until(pc.now_ns + NS_PER_S / 2), "LINT0 is masked");
}

impl Pc {
    fn sleep_until(&mut self, end_ns: u64) -> bool {
        self.now_ns = end_ns;
        self.board.advance(end_ns);
        self.board.interrupt_pending(0)
    }
}

#[test]
fn linux_finds_its_timer_on_pin_2() {
    // check_timer: PIC masked, LINT0 masked, the IO-APIC's pin 2 edge-triggered, and ticks must come.
    let mut pc = Pc::new(1);
    pc.pics(0xff, 0xff);
    pc.w(LINT0, 0x1_0700);
    pc.w(SVR, 0x1ff);
    pc.outb(0x43, &[0x34]);
    pc.outb(0x40, &[0x90, 0x12]); // 250 Hz
    assert_eq!(pc.board.next_deadline_ns(), None);
    pc.now_ns = 3 * NS_PER_S;
    pc.ioapic(2, 0x30);
    for _ in 0..10 {
        assert!(pc.sleep());
        assert_eq!(pc.ack(0), Some(0x30));
        pc.w(EOI, 0);
    }
    assert!(
        (pc.now_ns - 3 * NS_PER_S).abs_diff(40_000_000) < 4_010_000,
        "{}",
        pc.now_ns
    );
}

#[test]
fn a_long_jump_with_nobody_listening_costs_nothing() {
    let mut pc = Pc::new(1);
    pc.outb(0x43, &[0x34]);
    pc.outb(0x40, &[2, 0]);
    let day_ns = 86_400 * NS_PER_S;
    for days in 1..1000 {
        pc.board.advance(days * day_ns);
    }
    // Nor does one that serves nobody: the processor never takes what comes.
    pc.pics(0xfe, 0xff);
    pc.board.advance(2000 * day_ns);
    assert!(
        pc.board
            .next_deadline_ns()
            .is_some_and(|at| at > 2000 * day_ns)
    );
}

#[test]
fn serial_interrupts_through_the_io_apic() {
    let mut pc = Pc::new(1);
    pc.w(SVR, 0x1ff);
    pc.ioapic(4, 0x24);
    pc.outb(COM1 + 4, &[0x08]);
    pc.outb(COM1 + 1, &[0x03]);
    assert_eq!(pc.ack(0), Some(0x24));
    assert_eq!(pc.inb(COM1 + 2), 0x02);
    pc.w(EOI, 0);
    pc.outb(COM1, b"hello");
    assert_eq!(pc.board.console_output(), b"hello");
    assert_eq!(
        pc.ack(0),
        Some(0x24),
        "each byte that leaves is an edge; unserved, they are one interrupt"
    );
    assert_eq!(pc.inb(COM1 + 2), 0x02);
    pc.w(EOI, 0);
    assert!(!pc.board.interrupt_pending(0));
    assert_eq!(pc.board.console_input(pc.now_ns, b"ab"), 1);
    assert_eq!(pc.ack(0), Some(0x24));
    assert_eq!(pc.inb(COM1), b'a');
}

#[test]
fn the_sci_is_level_triggered_end_to_end() {
    let mut pc = Pc::new(1);
    pc.w(SVR, 0x1ff);
    pc.ioapic(9, 0x8029);
    pc.board.pio_write(0, 0, PM1A_EVENT + 2, 2, 0x0100);
    pc.board.press_power_button(0);
    for _ in 0..2 {
        assert_eq!(pc.ack(0), Some(0x29));
        pc.w(EOI, 0);
    }
    assert_eq!(pc.ack(0), Some(0x29));
    pc.board.pio_write(0, 0, PM1A_EVENT, 2, 0x0100);
    pc.w(EOI, 0);
    assert!(!pc.board.interrupt_pending(0));
    pc.board.pio_write(0, 0, PM1A_CONTROL, 2, 5 << 10 | 1 << 13);
    assert_eq!(pc.board.take_power(), Some(Power::PowerOff));
}

#[test]
fn processors_start_and_talk() {
    let mut pc = Pc::new(3);
    pc.w(LAPIC_BASE + 0x310, 1 << 24);
    pc.w(ICR, 0xc500);
    pc.w(ICR, 0x8500);
    assert_eq!(pc.board.take_ipis(), [Ipi::Init { cpu: 1 }]);
    pc.w(ICR, 0x0699);
    pc.w(ICR, 0x0699);
    assert_eq!(
        pc.board.take_ipis(),
        [Ipi::Startup {
            cpu: 1,
            vector: 0x99
        }]
    );
    assert_eq!(pc.board.take_ipis(), []);
    for cpu in 0..3 {
        pc.w_by(cpu, SVR, 0x1ff);
    }
    pc.w_by(1, ICR, 0x000c_00fb);
    assert_eq!(
        [0, 1, 2].map(|cpu| pc.board.interrupt_pending(cpu)),
        [true, false, true]
    );
    assert_eq!(
        (pc.ack(2), pc.ack(0), pc.ack(1)),
        (Some(0xfb), Some(0xfb), None)
    );
    pc.w_by(2, ICR, 0x0008_0400);
    assert!(pc.board.nmi_pending(2) && pc.board.take_nmi(0) && !pc.board.take_nmi(0));
    // Lowest priority: whoever has the least to do, and of equals the first.
    pc.w_by(1, EOI, 0);
    for (cpu, tpr) in [(0, 5), (1, 3), (2, 3)] {
        pc.board.tpr_write(0, cpu, tpr);
    }
    pc.w_by(0, ICR, 0x0008_0170);
    assert_eq!(pc.ack(1), Some(0x70));
    assert_eq!(pc.board.tpr_read(0), 5);
}

#[test]
fn each_processor_has_its_timer() {
    let mut pc = Pc::new(2);
    for cpu in 0..2 {
        pc.w_by(cpu, SVR, 0x1ff);
        pc.w_by(cpu, LVT_TIMER, 0x4_00ec);
        assert!(pc.board.msr_write(0, cpu, 0x6e0, 1000 + cpu as u64));
    }
    assert_eq!(pc.board.next_deadline_ns(), Some(1000));
    pc.board.advance(1000);
    assert!(pc.board.interrupt_pending(0) && !pc.board.interrupt_pending(1));
    assert_eq!(pc.board.msr_read(1000, 1, 0x6e0), Some(1001));
    pc.board.advance(5000);
    assert!(pc.board.interrupt_pending(1));
    assert_eq!(pc.board.next_deadline_ns(), None);
    assert_eq!(pc.board.msr_read(5000, 0, 0x1b), Some(0xfee0_0900));
}

#[test]
fn the_ways_to_end() {
    for (port, values, by) in [
        (0x64, &[0xfe][..], crate::ResetBy::KeyboardController),
        (0xcf9, &[0x02, 0x06], crate::ResetBy::ResetControl),
        (0x92, &[0x03], crate::ResetBy::Port92),
    ] {
        let mut pc = Pc::new(1);
        pc.outb(port, values);
        assert_eq!(pc.board.take_power(), Some(Power::Reset { by }));
        assert_eq!(pc.board.take_power(), None);
    }
    let mut pc = Pc::new(1);
    pc.board.pio_write(0, 0, DEBUG_EXIT, 1, 0xffff_ff10);
    assert_eq!(pc.board.take_power(), Some(Power::DebugExit(0x10)));
}

#[test]
fn a_moved_lapic_is_followed() {
    let mut pc = Pc::new(1);
    assert!(pc.board.msr_write(0, 0, 0x1b, 0xfed0_0900));
    assert_eq!(pc.board.mmio_read(0, 0, 0xfed0_0030, 4), 0x0005_0014);
    assert_eq!(pc.board.mmio_read(0, 0, LAPIC_BASE + 0x30, 4), 0xffff_ffff);
    assert!(
        !pc.board.msr_write(0, 0, 0x1b, 0xfed0_0d00),
        "x2APIC is not offered"
    );
}

#[test]
fn odd_sizes_at_the_apics() {
    let mut pc = Pc::new(1);
    let version = LAPIC_BASE + 0x30;
    assert_eq!(pc.board.mmio_read(0, 0, version, 8), 0x0005_0014);
    assert_eq!(pc.board.mmio_read(0, 0, version + 2, 1), 0x05);
    assert_eq!(pc.board.mmio_read(0, 0, version + 4, 4), 0);
    assert_eq!(pc.board.mmio_read(0, 0, version + 15, 1), 0);
    pc.board.mmio_write(0, 0, IOAPIC_BASE, 1, 1);
    assert_eq!(pc.board.mmio_read(0, 0, IOAPIC_BASE + 0x10, 4), 0x0017_0011);
}

#[test]
fn states_that_cannot_be_are_refused_and_change_nothing() {
    let mut pc = Pc::new(2);
    let good = pc.board.save();
    let bad = [
        BoardState {
            config: BoardConfig {
                cpus: 0,
                ..good.config
            },
            ..good.clone()
        },
        BoardState {
            config: BoardConfig {
                cpus: usize::MAX,
                ..good.config
            },
            ..good.clone()
        },
        BoardState {
            lapics: Vec::new(),
            ..good.clone()
        },
        BoardState {
            inputs: Vec::new(),
            ..good.clone()
        },
    ];
    pc.outb(COM1 + 7, &[0x77]);
    let before = pc.board.save();
    for state in bad {
        assert!(pc.board.restore(state).is_err());
        assert_eq!(pc.board.save(), before);
    }
    let mut other = Pc::new(1);
    other
        .board
        .restore(good.clone())
        .expect("a state of another configuration is taken over with it");
    assert_eq!(other.board.save(), good);
}

/// A random access to the board, and everything that can be seen of it afterwards.
fn poke(board: &mut Board, random: &mut Lcg, now_ns: &mut u64) -> String {
    let longest_ns = if random.below(50) == 0 {
        20_000_000
    } else {
        5_000
    };
    *now_ns += random.below(longest_ns);
    let cpu = random.below(3) as usize;
    let size = [1, 1, 1, 2, 4][random.below(5) as usize];
    let row = &PORTS[random.below(PORTS.len() as u64) as usize];
    let port = row.first + random.below(u64::from(row.last - row.first) + 1) as u16;
    let gpa = if random.below(4) == 0 {
        IOAPIC_BASE
    } else {
        LAPIC_BASE
    } + 16 * random.below(64);
    let value = random.next();
    let seen = match random.below(10) {
        0 | 1 => u64::from(board.pio_read(*now_ns, cpu, port, size)),
        2..5 => {
            board.pio_write(*now_ns, cpu, port, size, value as u32);
            0
        }
        5 => board.mmio_read(*now_ns, cpu, gpa, 4),
        6 | 7 => {
            board.mmio_write(*now_ns, cpu, gpa, 4, value);
            0
        }
        8 => board.console_input(*now_ns, &value.to_le_bytes()) as u64,
        _ => board.acknowledge(*now_ns, cpu).map_or(0, u64::from),
    };
    let pending = [0, 1, 2].map(|cpu| (board.interrupt_pending(cpu), board.nmi_pending(cpu)));
    format!(
        "{seen:x} {pending:?} {:?} {:?} {:?} {:?}",
        board.take_ipis(),
        board.console_output(),
        board.take_power(),
        board.next_deadline_ns()
    )
}

#[test]
fn a_restored_board_goes_on_as_if_nothing_had_happened() {
    let mut random = Lcg(2026);
    let mut now_ns = 0;
    let mut pc = Pc::new(3);
    for round in 0..400 {
        let saved = pc.board.save();
        let bytes = rmp_serde::to_vec(&saved).expect("a state can be written");
        let mut twin = Board::new(&BoardConfig {
            cpus: 1,
            ram_bytes: 0,
            rtc_epoch_s: 0,
        });
        twin.restore(rmp_serde::from_slice(&bytes).expect("and read"))
            .expect("its own state");
        assert_eq!(twin.save(), saved, "restoring has no effects");
        assert_eq!(twin.next_deadline_ns(), pc.board.next_deadline_ns());
        let (mut twin_random, mut twin_now_ns) = (Lcg(random.0), now_ns);
        for step in 0..100 {
            let a = poke(&mut pc.board, &mut random, &mut now_ns);
            let b = poke(&mut twin, &mut twin_random, &mut twin_now_ns);
            assert_eq!(a, b, "round {round}, step {step}");
        }
        assert_eq!(twin.save(), pc.board.save(), "round {round}");
    }
}

#[test]
fn looking_often_changes_nothing() {
    // The run loop may call `advance` whenever it likes.
    let (mut random, mut now_ns) = (Lcg(5), 0);
    let mut pc = Pc::new(3);
    for _ in 0..200 {
        for _ in 0..30 {
            poke(&mut pc.board, &mut random, &mut now_ns);
        }
        let mut rare = Pc::new(3).board;
        rare.restore(pc.board.save()).expect("its own state");
        let end_ns = now_ns + random.below(50_000_000);
        while now_ns < end_ns {
            pc.board.advance(now_ns);
            now_ns += random.below(1_000_000);
        }
        now_ns = now_ns.max(end_ns);
        pc.board.advance(now_ns);
        rare.advance(now_ns);
        // Devices that nobody listens to are followed lazily; what a guest can see is the same.
        for port in [
            0x20,
            0xa0,
            0x40,
            0x40,
            0x41,
            0x42,
            0x61,
            0x71,
            COM1 + 2,
            COM1 + 5,
            PM_TIMER,
        ] {
            assert_eq!(
                pc.board.pio_read(now_ns, 0, port, 1),
                rare.pio_read(now_ns, 0, port, 1),
                "{port:#x}"
            );
        }
        assert_eq!(pc.board.save(), rare.save());
    }
}

#[test]
fn a_damaged_state_is_refused_or_runs() {
    // What a file says may be anything. It is refused, or it is a board that lives on without a panic.
    let mut random = Lcg(99);
    let (mut taken, mut refused) = (0, 0);
    let mut pc = Pc::new(2);
    let mut now_ns = 0;
    for round in 0..2000 {
        poke(&mut pc.board, &mut random, &mut now_ns);
        let mut bytes = rmp_serde::to_vec(&pc.board.save()).expect("a state can be written");
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        let Ok(state) = rmp_serde::from_slice::<BoardState>(&bytes) else {
            refused += 1;
            continue;
        };
        let mut board = Board::new(&BoardConfig {
            cpus: 1,
            ram_bytes: 0,
            rtc_epoch_s: 0,
        });
        if board.restore(state).is_err() {
            refused += 1;
            continue;
        }
        taken += 1;
        let (mut damaged_random, mut damaged_now_ns) = (Lcg(round), now_ns);
        for _ in 0..60 {
            poke(&mut board, &mut damaged_random, &mut damaged_now_ns);
        }
        if round % 16 == 0 {
            board.advance(u64::MAX);
        }
        board.save();
    }
    assert!(
        taken > 200 && refused > 200,
        "{taken} taken, {refused} refused"
    );
}
