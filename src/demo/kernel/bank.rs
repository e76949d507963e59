//! The bank: accounts, orders to move money between them, and the books. Money is neither made nor lost: what all
//! accounts hold together is always what was issued when the bank opened.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::console::println;
use crate::recorder::What;
use crate::scheduler::{now, sleep, switches, yield_now};
use crate::{KERNEL, interrupts, kernel};

pub const ACCOUNTS: usize = 512;
const OPENING_BALANCE: u64 = 10_000;
/// Transfers that a day has.
const TRANSFERS_A_DAY: u64 = 60_000;
/// Transfers between two lines of progress.
const TRANSFERS_AN_HOUR: u64 = TRANSFERS_A_DAY / 8;
/// Timer interrupts that a night lasts.
const NIGHT: u64 = 50;
const QUEUE: usize = 128;
const LARGEST: usize = 16;

/// The books.
#[repr(C)]
pub struct Ledger {
    /// All the money there is; set when the bank opens.
    pub issued: u64,
    balances: [AtomicU64; ACCOUNTS],
}

impl Ledger {
    pub const fn new() -> Ledger {
        Ledger {
            issued: 0,
            balances: [const { AtomicU64::new(0) }; ACCOUNTS],
        }
    }

    /// Takes `amount` from one account and gives it to another, unless that is more than there is.
    fn transfer(&self, order: &Order) -> bool {
        let (from, to) = (
            &self.balances[order.from as usize],
            &self.balances[order.to as usize],
        );
        let enough = |balance: u64| balance.checked_sub(order.amount);
        if from
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough)
            .is_err()
        {
            return false;
        }
        to.fetch_add(order.amount, Ordering::Relaxed);
        true
    }

    /// What all accounts hold together.
    fn held(&self) -> u64 {
        self.balances
            .iter()
            .map(|balance| balance.load(Ordering::Relaxed))
            .sum()
    }
}

/// Move `amount` from one account to another.
#[derive(Clone, Copy)]
struct Order {
    from: u32,
    to: u32,
    amount: u64,
}

/// Orders on their way from the courier to the tellers: a ring that is touched with interrupts off.
struct Queue {
    orders: [Order; QUEUE],
    /// Orders that were ever put in and taken out.
    put: usize,
    taken: usize,
}

/// The largest transfers of the day: a list in descending order, linked by index.
struct Ranking {
    amount: [u64; LARGEST],
    next: [u8; LARGEST],
    first: u8,
    len: u8,
}

const END: u8 = u8::MAX;

impl Ranking {
    /// Puts `amount` in its place; when the list is full, the smallest leaves it.
    fn offer(&mut self, amount: u64) {
        let slot = if usize::from(self.len) < LARGEST {
            self.len += 1;
            self.len - 1
        } else {
            let Some(slot) = self.unlink_last(amount) else {
                return;
            };
            slot
        };
        let mut before = END;
        let mut at = self.first;
        while at != END && self.amount[usize::from(at)] >= amount {
            before = at;
            at = self.next[usize::from(at)];
        }
        self.amount[usize::from(slot)] = amount;
        self.next[usize::from(slot)] = at;
        match before {
            END => self.first = slot,
            before => self.next[usize::from(before)] = slot,
        }
    }

    /// Takes the smallest out of the list, unless it is as large as `amount`.
    fn unlink_last(&mut self, amount: u64) -> Option<u8> {
        let (mut before, mut at) = (END, self.first);
        while self.next[usize::from(at)] != END {
            before = at;
            at = self.next[usize::from(at)];
        }
        if self.amount[usize::from(at)] >= amount {
            return None;
        }
        match before {
            END => self.first = END,
            before => self.next[usize::from(before)] = END,
        }
        Some(at)
    }
}

/// What the bank's tasks share.
pub struct Bank {
    queue: UnsafeCell<Queue>,
    ranking: UnsafeCell<Ranking>,
    /// Orders that were carried out or refused, since the bank opened.
    done: AtomicU64,
    refused: AtomicU32,
}

// SAFETY: the cells are touched with interrupts off only.
unsafe impl Sync for Bank {}

impl Bank {
    pub const fn new() -> Bank {
        let nothing = Order {
            from: 0,
            to: 0,
            amount: 0,
        };
        Bank {
            queue: UnsafeCell::new(Queue {
                orders: [nothing; QUEUE],
                put: 0,
                taken: 0,
            }),
            ranking: UnsafeCell::new(Ranking {
                amount: [0; LARGEST],
                next: [END; LARGEST],
                first: END,
                len: 0,
            }),
            done: AtomicU64::new(0),
            refused: AtomicU32::new(0),
        }
    }

    fn put(&self, order: Order) -> bool {
        interrupts::without(|| {
            // SAFETY: interrupts are off.
            let queue = unsafe { &mut *self.queue.get() };
            let room = queue.put - queue.taken < QUEUE;
            if room {
                queue.orders[queue.put % QUEUE] = order;
                queue.put += 1;
            }
            room
        })
    }

    fn take(&self) -> Option<Order> {
        interrupts::without(|| {
            // SAFETY: interrupts are off.
            let queue = unsafe { &mut *self.queue.get() };
            if queue.taken == queue.put {
                return None;
            }
            queue.taken += 1;
            Some(queue.orders[(queue.taken - 1) % QUEUE])
        })
    }

    fn rank(&self, amount: u64) {
        // SAFETY: interrupts are off.
        interrupts::without(|| unsafe { (*self.ranking.get()).offer(amount) });
    }
}

/// Gives every account its first money.
pub fn open() {
    // SAFETY: before the first task.
    unsafe {
        let ledger = &raw mut KERNEL.ledger;
        (*ledger).issued = ACCOUNTS as u64 * OPENING_BALANCE;
        for balance in &(*ledger).balances {
            balance.store(OPENING_BALANCE, Ordering::Relaxed);
        }
    }
}

/// Task: makes up orders and brings them to the tellers.
pub fn courier() -> ! {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for day in 1.. {
        for _ in 0..TRANSFERS_A_DAY {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let from = random as u32 % ACCOUNTS as u32;
            let to = (random >> 32) as u32 % ACCOUNTS as u32;
            let order = Order {
                from,
                to,
                amount: 1 + (random >> 20) % 3000,
            };
            while !kernel().bank.put(order) {
                yield_now();
            }
        }
        kernel().recorder.note(What::DayFilled);
        while kernel().bank.done.load(Ordering::Relaxed) < day * TRANSFERS_A_DAY {
            yield_now();
        }
        sleep(NIGHT);
    }
    unreachable!()
}

/// Task: carries out orders.
pub fn teller() -> ! {
    let kernel = kernel();
    loop {
        let Some(order) = kernel.bank.take() else {
            yield_now();
            continue;
        };
        if kernel.ledger.transfer(&order) {
            kernel.recorder.note(What::Transfer);
            kernel.bank.rank(order.amount);
        } else {
            kernel.recorder.note(What::Refused);
            kernel.bank.refused.fetch_add(1, Ordering::Relaxed);
        }
        kernel.bank.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Task: says how things go, and closes the books when all orders of the day are done.
pub fn auditor() -> ! {
    for day in 1.. {
        let mut hour = 0;
        while hour < 8 {
            sleep(10);
            let done = kernel().bank.done.load(Ordering::Relaxed) - (day - 1) * TRANSFERS_A_DAY;
            if done >= (hour + 1) * TRANSFERS_AN_HOUR {
                hour = done / TRANSFERS_AN_HOUR;
                println!(
                    "day {day}, {:02}:00  {done} orders done, {} task switches",
                    8 + hour,
                    switches()
                );
            }
        }
        close_the_books(day);
        sleep(NIGHT);
    }
    unreachable!()
}

/// All tellers are idle now: the books must balance.
fn close_the_books(day: u64) {
    let ledger = &kernel().ledger;
    let held = ledger.held();
    let issued = ledger.issued;
    let refused = kernel().bank.refused.load(Ordering::Relaxed);
    println!(
        "day {day}, closing: {held} held, {refused} orders refused, {} timer interrupts",
        now()
    );
    if held != issued {
        panic!("invariant broken: the accounts hold {held}, but {issued} was issued");
    }
    kernel().recorder.note(What::DayClosed);
    println!("day {day}, the books balance");
}
