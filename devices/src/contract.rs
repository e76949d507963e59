//! What every device has to keep, tried on every device: saving is pure, a restored device is the same device, a
//! restore has no effects, no access panics, and the same accesses give the same bytes.

use crate::acpi::pm::Pm;
use crate::debug::Debug;
use crate::device::{Device, Effects};
use crate::i8042::I8042;
use crate::ioapic::Ioapic;
use crate::lapic::Lapic;
use crate::map::{IRQ_COM1, NS_PER_S};
use crate::pci::Pci;
use crate::pic::Pic;
use crate::pit::Pit;
use crate::reset::Reset;
use crate::rtc::Rtc;
use crate::serial::Serial;

/// A small generator of the same numbers every time (Knuth's MMIX constants).
pub struct Lcg(pub u64);

impl Lcg {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 29
    }
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// How to try a device: its registers, and the sizes that accesses to them have.
struct Trial<D> {
    make: fn() -> D,
    regs: &'static [u16],
    sizes: &'static [u8],
}

const STEPS: usize = 30_000;

/// One random access: what was read, and what it did.
fn poke<D: Device>(
    device: &mut D,
    trial: &Trial<D>,
    random: &mut Lcg,
    now_ns: &mut u64,
    out: &mut Effects,
) -> u64 {
    *now_ns += match random.below(20) {
        0 => random.below(3 * NS_PER_S),
        1..4 => random.below(1_000_000),
        _ => random.below(2_000),
    };
    let reg = trial.regs[random.below(trial.regs.len() as u64) as usize];
    let size = trial.sizes[random.below(trial.sizes.len() as u64) as usize];
    let read = match random.below(5) {
        0 => {
            device.advance(*now_ns, out);
            0
        }
        1 | 2 => device.read(*now_ns, reg, size, out),
        _ => {
            let value = random.next() as u32;
            device.write(
                *now_ns,
                reg,
                size,
                value & (u32::MAX >> (32 - 8 * u32::from(size))),
                out,
            );
            0
        }
    };
    // A deadline is in the future, or there is no end to `advance`.
    if let Some(at) = device.deadline_ns() {
        device.advance(at.max(*now_ns), out);
        *now_ns = at.max(*now_ns);
        assert!(
            device.deadline_ns().is_none_or(|next| next > at),
            "a deadline that stays"
        );
    }
    u64::from(read)
}

fn effects(out: &mut Effects) -> String {
    let all = format!("{out:?}");
    *out = Effects::default();
    all
}

fn keeps_the_contract<D: Device>(name: &str, trial: Trial<D>) {
    let (mut device, mut twin) = ((trial.make)(), (trial.make)());
    let (mut random, mut twin_random) = (Lcg(42), Lcg(42));
    let (mut now_ns, mut twin_now_ns) = (0, 0);
    let (mut out, mut twin_out) = (Effects::default(), Effects::default());
    for step in 0..STEPS {
        if step % 64 == 0 {
            // Saved, sent through a file, and restored into a new device, which then goes on as the twin.
            let saved = device.save();
            assert_eq!(saved, device.save(), "{name}: saving changes nothing");
            let bytes = rmp_serde::to_vec(&saved).expect("a state can be written");
            let read: D::State = rmp_serde::from_slice(&bytes).expect("and read");
            assert_eq!(read, saved, "{name}: a state survives a file");
            twin = (trial.make)();
            twin.restore(&read).expect("a state of the same device");
            assert_eq!(
                twin.save(),
                saved,
                "{name}: a restored device is the device"
            );
            assert_eq!(
                twin.deadline_ns(),
                device.deadline_ns(),
                "{name}: its timers are armed once, and alike"
            );
        }
        let a = poke(&mut device, &trial, &mut random, &mut now_ns, &mut out);
        let b = poke(
            &mut twin,
            &trial,
            &mut twin_random,
            &mut twin_now_ns,
            &mut twin_out,
        );
        assert_eq!(
            (a, effects(&mut out)),
            (b, effects(&mut twin_out)),
            "{name}: step {step}"
        );
    }
}

/// A device that has been advanced often is in the state of one that was advanced once.
fn time_may_pass_in_pieces<D: Device>(name: &str, trial: Trial<D>) {
    let mut random = Lcg(7);
    let (mut now_ns, mut out) = (0, Effects::default());
    let mut device = (trial.make)();
    for _ in 0..300 {
        for _ in 0..20 {
            poke(&mut device, &trial, &mut random, &mut now_ns, &mut out);
        }
        let mut once = (trial.make)();
        once.restore(&device.save()).expect("its own state");
        let until_ns = now_ns + random.below(5 * NS_PER_S);
        for _ in 0..10 {
            now_ns += random.below((until_ns - now_ns).max(1));
            device.advance(now_ns, &mut out);
        }
        now_ns = until_ns;
        device.advance(until_ns, &mut out);
        once.advance(until_ns, &mut out);
        assert_eq!(device.save(), once.save(), "{name}");
    }
}

macro_rules! device_contract {
    ($($name:ident: $trial:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn keeps_the_contract() {
                super::keeps_the_contract(stringify!($name), $trial);
            }
            #[test]
            fn time_may_pass_in_pieces() {
                super::time_may_pass_in_pieces(stringify!($name), $trial);
            }
        }
    )*};
}

const BYTE: &[u8] = &[1];
const DWORD: &[u8] = &[4];

device_contract! {
    serial: Trial { make: || Serial::new(IRQ_COM1), regs: &[0, 1, 2, 3, 4, 5, 6, 7], sizes: BYTE };
    pic: Trial { make: Pic::new, regs: &[0, 1, 2, 3, 4, 5], sizes: BYTE };
    pit: Trial { make: Pit::new, regs: &[0, 1, 2, 3, 3, 4], sizes: BYTE };
    lapic: Trial {
        make: || Lapic::new(0),
        regs: &[
            0x20, 0x30, 0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x300, 0x310, 0x320, 0x320, 0x340, 0x350, 0x360, 0x370,
            0x380, 0x380, 0x390, 0x3e0, 0x3f0,
        ],
        sizes: DWORD
    };
    ioapic: Trial { make: Ioapic::new, regs: &[0, 0x10, 0x20], sizes: DWORD };
    rtc: Trial { make: || Rtc::new(1_700_000_000, 1 << 30, 2), regs: &[0, 1], sizes: BYTE };
    i8042: Trial { make: I8042::new, regs: &[0, 1], sizes: BYTE };
    pci: Trial { make: Pci::new, regs: &[0, 4, 5, 6, 7], sizes: &[1, 2, 4] };
    pm: Trial { make: Pm::new, regs: &[0, 2, 4, 8], sizes: &[1, 2, 4] };
    reset: Trial { make: Reset::new, regs: &[0, 1], sizes: BYTE };
    debug: Trial { make: Debug::default, regs: &[0, 1], sizes: BYTE };
}
