use super::*;
use crate::map::NS_PER_S;

struct Apic {
    apic: Lapic,
    out: Effects,
    now_ns: u64,
}

impl Apic {
    fn new(cpu: usize) -> Apic {
        let mut apic = Apic {
            apic: Lapic::new(cpu),
            out: Effects::default(),
            now_ns: 0,
        };
        apic.w(SVR, 0x1ff);
        apic
    }
    fn r(&mut self, reg: u16) -> u32 {
        self.apic.read(self.now_ns, reg, 4, &mut self.out)
    }
    fn w(&mut self, reg: u16, value: u32) {
        self.apic.write(self.now_ns, reg, 4, value, &mut self.out);
    }
    fn fixed(&mut self, vector: u8, level: bool) {
        let message = Message {
            to: Destination::Cpu(0),
            delivery: Delivery::Fixed,
            vector,
            level,
        };
        self.apic.receive(&message, &mut self.out);
    }
    fn advance(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.apic.advance(now_ns, &mut self.out);
    }
}

#[test]
fn reset_values_are_those_of_the_manual() {
    let mut a = Apic {
        apic: Lapic::new(3),
        out: Effects::default(),
        now_ns: 0,
    };
    assert_eq!(a.r(ID), 3 << 24);
    assert_eq!(a.r(VERSION), 0x0005_0014);
    assert_eq!(a.r(SVR), 0xff);
    assert_eq!(a.r(DFR), 0xffff_ffff);
    for lvt in (LVT_TIMER..=LVT_ERROR).step_by(16) {
        assert_eq!(a.r(lvt), LVT_MASKED, "{lvt:#x}");
    }
    assert_eq!(a.apic.base(), 0xfee0_0800);
    assert_eq!(Lapic::new(0).base(), 0xfee0_0900);
    assert!(Lapic::new(0).passes_pic() && !a.apic.passes_pic());
}

#[test]
fn priority_classes_nest_and_eoi_ends_the_highest() {
    let mut a = Apic::new(0);
    a.fixed(0x41, false);
    a.fixed(0x52, false);
    assert_eq!(a.apic.acknowledge(), Some(0x52));
    assert!(!a.apic.interrupt());
    assert_eq!(a.r(PPR), 0x50);
    a.fixed(0x53, false);
    assert!(!a.apic.interrupt(), "the same class waits");
    a.fixed(0x61, false);
    assert_eq!(a.apic.acknowledge(), Some(0x61));
    a.w(EOI, 0);
    a.w(EOI, 0);
    assert_eq!(a.apic.acknowledge(), Some(0x53));
    a.w(EOI, 0);
    assert_eq!(a.apic.acknowledge(), Some(0x41));
    assert_eq!(a.apic.acknowledge(), None);
}

#[test]
fn task_priority_holds_back_its_class_and_those_below() {
    let mut a = Apic::new(0);
    a.fixed(0x51, false);
    a.w(TPR, 0x50);
    assert!(!a.apic.interrupt());
    a.apic.set_cr8(4);
    assert_eq!((a.r(TPR), a.apic.cr8(), a.r(PPR)), (0x40, 4, 0x40));
    assert!(a.apic.interrupt());
}

#[test]
fn level_interrupts_announce_their_end() {
    let mut a = Apic::new(0);
    a.fixed(0x51, true);
    a.fixed(0x61, false);
    assert_eq!(a.r(TMR + 0x20), 1 << 0x11);
    a.apic.acknowledge();
    a.w(EOI, 0);
    assert!(a.out.eois.is_empty());
    a.apic.acknowledge();
    assert_eq!((a.r(ISR + 0x20), a.r(IRR + 0x20)), (1 << 0x11, 0));
    a.w(EOI, 0);
    assert_eq!(a.out.eois, [0x51]);
}

#[test]
fn one_shot_timer_divides_and_stops() {
    let mut a = Apic::new(0);
    a.w(LVT_TIMER, 0x30);
    a.w(TIMER_DIVIDE, 0x3); // by 16
    a.w(TIMER_INITIAL, 1000);
    assert_eq!(a.apic.deadline_ns(), Some(1000 * 16 * 40));
    a.advance(640_000 - 1);
    assert_eq!(a.r(TIMER_CURRENT), 1);
    assert!(!a.apic.interrupt());
    a.advance(640_000);
    assert_eq!(a.apic.acknowledge(), Some(0x30));
    assert_eq!((a.r(TIMER_CURRENT), a.apic.deadline_ns()), (0, None));
}

#[test]
fn every_divider() {
    for (code, by) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ] {
        let mut a = Apic::new(0);
        a.w(LVT_TIMER, 0x30);
        a.w(TIMER_DIVIDE, code);
        a.w(TIMER_INITIAL, 1);
        assert_eq!(a.apic.deadline_ns(), Some(by * 40), "{code}");
    }
}

#[test]
fn periodic_timer_does_not_drift_and_coalesces_what_nobody_serves() {
    let mut a = Apic::new(0);
    a.w(TIMER_DIVIDE, 0xb);
    a.w(LVT_TIMER, LVT_TIMER_PERIODIC | 0x30);
    a.w(TIMER_INITIAL, 99_991);
    let hours_ns = 5 * 3600 * NS_PER_S;
    let mut served = 0;
    while let Some(at) = a.apic.deadline_ns().filter(|&at| at <= hours_ns) {
        a.advance(at);
        assert_eq!(a.apic.acknowledge(), Some(0x30));
        a.w(EOI, 0);
        served += 1;
    }
    assert_eq!(served, hours_ns / (99_991 * 40));
    // Unserved, it is one request, and no deadline until it is taken.
    a.advance(2 * hours_ns);
    assert_eq!(a.apic.deadline_ns(), None);
    assert_eq!(
        a.r(TIMER_CURRENT),
        99_991 - (2 * hours_ns / 40 % 99_991) as u32
    );
    assert_eq!(
        (a.apic.acknowledge(), a.apic.acknowledge()),
        (Some(0x30), None)
    );
    let period_ns = 99_991 * 40;
    assert_eq!(
        a.apic.deadline_ns(),
        Some((2 * hours_ns / period_ns + 1) * period_ns)
    );
}

#[test]
fn tsc_deadline_fires_once_and_belongs_to_its_mode() {
    let mut a = Apic::new(0);
    a.apic.set_tsc_deadline(0, 500, &mut a.out);
    assert_eq!(a.apic.tsc_deadline(0, &mut a.out), 0, "not in the mode");
    a.w(LVT_TIMER, LVT_TIMER_DEADLINE | 0x30);
    a.w(TIMER_INITIAL, 7);
    assert_eq!(a.r(TIMER_INITIAL), 0);
    a.apic.set_tsc_deadline(0, 500, &mut a.out);
    assert_eq!(a.apic.deadline_ns(), Some(500));
    a.advance(499);
    assert!(!a.apic.interrupt());
    a.advance(500);
    assert!(a.apic.interrupt());
    assert_eq!(a.apic.tsc_deadline(500, &mut a.out), 0);
    // A deadline in the past fires at once.
    a.apic.acknowledge();
    a.w(EOI, 0);
    a.apic.set_tsc_deadline(600, 10, &mut a.out);
    assert!(a.apic.interrupt());
    a.apic.set_tsc_deadline(600, 9_000, &mut a.out);
    a.w(LVT_TIMER, 0x30);
    assert_eq!(a.apic.deadline_ns(), None, "leaving the mode disarms");
}

#[test]
fn a_masked_timer_counts_in_silence() {
    let mut a = Apic::new(0);
    a.w(LVT_TIMER, LVT_MASKED | 0x30);
    a.w(TIMER_INITIAL, 10);
    assert_eq!(a.apic.deadline_ns(), None);
    a.advance(10_000);
    assert!(!a.apic.interrupt());
}

#[test]
fn changing_the_divider_goes_on_from_the_current_count() {
    let mut a = Apic::new(0);
    a.w(LVT_TIMER, 0x30);
    a.w(TIMER_DIVIDE, 0xb);
    a.w(TIMER_INITIAL, 100);
    a.advance(50 * 40);
    a.w(TIMER_DIVIDE, 0x0);
    assert_eq!(a.r(TIMER_CURRENT), 50);
    assert_eq!(a.apic.deadline_ns(), Some(50 * 40 + 50 * 80));
}

#[test]
fn lint0_passes_the_pic_or_makes_a_vector_or_an_nmi() {
    let mut a = Apic::new(0);
    assert!(a.apic.passes_pic());
    a.w(LVT_TIMER + 0x30, 0x40);
    assert!(!a.apic.passes_pic());
    a.apic.set_lint0(true, &mut a.out);
    a.apic.set_lint0(true, &mut a.out);
    assert_eq!(
        (a.apic.acknowledge(), a.apic.acknowledge()),
        (Some(0x40), None)
    );
    a.w(EOI, 0);
    a.apic.set_lint0(false, &mut a.out);
    a.w(LVT_TIMER + 0x30, 4 << 8);
    a.apic.set_lint0(true, &mut a.out);
    assert_eq!(
        a.out.messages.pop_front().map(|m| m.delivery),
        Some(Delivery::Nmi)
    );
    a.apic.set_lint0(false, &mut a.out);
    a.w(LVT_TIMER + 0x30, LVT_LEVEL | 0x45);
    a.apic.set_lint0(true, &mut a.out);
    assert_eq!(a.apic.acknowledge(), Some(0x45));
    assert_eq!(a.r(LVT_TIMER + 0x30), LVT_LEVEL | LVT_REMOTE_IRR | 0x45);
    a.w(EOI, 0);
    assert_eq!(a.apic.acknowledge(), Some(0x45), "still up: again");
    a.apic.set_lint0(false, &mut a.out);
    a.w(EOI, 0);
    assert!(!a.apic.interrupt());
}

#[test]
fn software_disable_masks_the_lvt_and_refuses_messages() {
    let mut a = Apic::new(0);
    a.fixed(0x50, false);
    a.w(SVR, 0xff);
    assert!(a.apic.interrupt(), "what was pending stays pending");
    a.apic.acknowledge();
    a.w(EOI, 0);
    a.fixed(0x51, false);
    assert!(!a.apic.interrupt());
    a.w(LVT_TIMER, 0x30);
    assert_eq!(a.r(LVT_TIMER), LVT_MASKED | 0x30);
    assert_eq!(a.r(LVT_TIMER + 16 * LINT1 as u16), LVT_MASKED | 0x400);
}

#[test]
fn ipis_are_addressed() {
    let apics: Vec<Lapic> = (0..4).map(Lapic::new).collect();
    let addressed = |to| {
        apics
            .iter()
            .map(|apic| apic.is_addressed(to))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        addressed(Destination::Physical(2)),
        [false, false, true, false]
    );
    assert_eq!(addressed(Destination::Physical(0xff)), [true; 4]);
    assert_eq!(addressed(Destination::AllBut(1)), [true, false, true, true]);
    let mut a = Apic::new(1);
    a.w(LDR, 0x0400_0000);
    assert!(a.apic.is_addressed(Destination::Logical(0x06)));
    assert!(!a.apic.is_addressed(Destination::Logical(0x02)));
    a.w(DFR, 0);
    a.w(LDR, 0x2400_0000);
    assert!(a.apic.is_addressed(Destination::Logical(0x2c)));
    assert!(!a.apic.is_addressed(Destination::Logical(0x1c)));
    assert!(!a.apic.is_addressed(Destination::Logical(0x22)));
}

#[test]
fn icr_sends_what_it_says() {
    let mut a = Apic::new(0);
    a.w(ICR_HIGH, 0x0100_0000);
    a.w(ICR_LOW, 0x0000_c500);
    a.w(ICR_LOW, 0x0000_8500);
    a.w(ICR_LOW, 0x0000_0699);
    a.w(ICR_LOW, 0x000c_00fb);
    assert_eq!(a.r(ICR_LOW), 0x000c_00fb);
    let sent: Vec<_> = a
        .out
        .messages
        .drain(..)
        .map(|m| (m.to, m.delivery, m.vector))
        .collect();
    assert_eq!(
        sent,
        [
            (Destination::Physical(1), Delivery::Init, 0),
            (Destination::Physical(1), Delivery::Startup, 0x99),
            (Destination::AllBut(0), Delivery::Fixed, 0xfb),
        ],
        "INIT de-assert goes nowhere"
    );
}

#[test]
fn errors_are_latched_by_a_write_and_interrupt_once() {
    let mut a = Apic::new(0);
    a.w(LVT_ERROR, 0xfe);
    a.w(ICR_LOW, 0x0f);
    a.w(ICR_LOW, 0x0f);
    assert_eq!(
        (a.apic.acknowledge(), a.apic.acknowledge()),
        (Some(0xfe), None)
    );
    assert_eq!(a.r(ESR), 0);
    a.fixed(0x03, false);
    a.r(0x010);
    a.w(ESR, 0);
    assert_eq!(a.r(ESR), 0xe0);
    a.w(ESR, 0);
    assert_eq!(a.r(ESR), 0);
    assert!(a.out.messages.is_empty());
}

#[test]
fn apic_base_refuses_what_is_reserved_and_disabling_resets() {
    let mut a = Apic::new(0);
    for bad in [BASE_X2APIC, 1, 1 << 9, 1 << 52] {
        assert!(!a.apic.set_base(a.apic.base() | bad), "{bad:#x}");
    }
    assert!(a.apic.decodes(0xfee0_0300));
    assert!(a.apic.set_base(0xfed0_0000 | BASE_ENABLE | BASE_BSP));
    assert!(a.apic.decodes(0xfed0_0300) && !a.apic.decodes(0xfee0_0300));
    a.fixed(0x50, false);
    assert!(a.apic.set_base(LAPIC_BASE | BASE_BSP));
    assert!(!a.apic.decodes(0xfee0_0000) && !a.apic.interrupt() && a.apic.passes_pic());
    assert!(a.apic.set_base(LAPIC_BASE | BASE_BSP | BASE_ENABLE));
    assert_eq!(a.r(SVR), 0xff);
}

#[test]
fn init_resets_all_but_the_base() {
    let mut a = Apic::new(1);
    a.fixed(0x50, false);
    a.w(TPR, 0x20);
    let init = Message {
        to: Destination::All,
        delivery: Delivery::Init,
        vector: 0,
        level: false,
    };
    a.apic.receive(&init, &mut a.out);
    assert!(!a.apic.interrupt());
    assert_eq!((a.r(TPR), a.r(SVR), a.r(ID)), (0, 0xff, 1 << 24));
}
