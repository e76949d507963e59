//! The engine's side of a case.

use crate::machine::{Machine, RAM};
use retrovisor::cpu::Cpu;
use retrovisor::cpu::cpuid::CpuModel;
use retrovisor::cpu::run::Exit;
use retrovisor::cpu::state::activity;
use retrovisor::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use retrovisor::memory::Memory;
use retrovisor::tick::Tick;

/// What IN reads from a port: both sides have to agree.
pub fn port_value(port: u16) -> u32 {
    0xa5c3_0000 | port as u32
}

/// A world of ports, and perhaps one interrupt that waits.
#[derive(Default)]
pub struct Ports {
    pub written: Vec<(u16, u8, u32)>,
    pub interrupt: Option<Interrupt>,
    pub dead: bool,
}

impl World for Ports {
    fn pio_read(&mut self, _: Tick, _: usize, port: u16, size: u8) -> u32 {
        port_value(port) & (u32::MAX >> (32 - 8 * size as u32))
    }
    fn pio_write(&mut self, _: Tick, _: usize, port: u16, size: u8, value: u32) {
        self.written.push((port, size, value));
    }
    fn mmio_read(&mut self, _: Tick, _: usize, _: u64, _: u8) -> u64 {
        0
    }
    fn mmio_write(&mut self, _: Tick, _: usize, _: u64, _: u8, _: u64) {}
    fn msr_read(&mut self, _: Tick, _: usize, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: Tick, _: usize, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self, now: Tick, _: usize) -> u64 {
        now
    }
    fn random(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_read(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_write(&mut self, _: Tick, _: usize, _: u64) {}
    fn next_stop(&mut self, _: Tick) -> Tick {
        Tick::MAX
    }
    fn poll(&mut self, _: Tick, _: usize, _: &mut Vec<Dma>) -> Pending {
        Pending {
            interrupt: matches!(self.interrupt, Some(Interrupt::Vector(_))),
            nmi: self.interrupt == Some(Interrupt::Nmi),
        }
    }
    fn interrupt(&mut self, _: Tick, _: usize, maskable: bool) -> Option<Interrupt> {
        match self.interrupt {
            Some(Interrupt::Vector(_)) if !maskable => None,
            _ => self.interrupt.take(),
        }
    }
    fn wait(&mut self, _: Tick, _: usize, _: bool) -> Wait {
        Wait::Ended
    }
    fn ended(&mut self, _: Tick) -> bool {
        self.dead
    }
    fn shutdown(&mut self, _: Tick, _: usize, _: &str) {
        self.dead = true;
    }
}

/// The engine, used again for every case.
pub struct Engine {
    cpu: Box<Cpu>,
}

impl Engine {
    pub fn new() -> Engine {
        let memory = Memory::new(RAM as u64).expect("a mebibyte");
        Engine {
            cpu: Cpu::new(memory, CpuModel::native()),
        }
    }

    fn load(&mut self, machine: &Machine) {
        self.cpu.memory.write(0, &machine.ram);
        self.cpu.forget_code();
        self.cpu.state = machine.state;
        self.cpu.state_changed();
        self.cpu.set_tick(0);
    }

    /// Runs whole blocks until the processor halts or shuts down, or for some ticks.
    pub fn run_at_once(&mut self, machine: &Machine, ticks: Tick, world: &mut Ports) -> Machine {
        self.load(machine);
        self.cpu.run(world, ticks, false);
        self.found(machine)
    }

    /// Runs at most `ticks` ticks, one by one, and the delivery of traps that wait then, or until the processor halts
    /// or shuts down.
    pub fn run(&mut self, machine: &Machine, ticks: Tick, world: &mut Ports) -> Machine {
        self.load(machine);
        loop {
            let next = self.cpu.tick() + 1;
            let exit = self.cpu.run(world, next, false);
            let halted = self.cpu.state.activity != activity::RUNNING;
            let waits = self.cpu.state.pending_trap != 0;
            if exit != Exit::Tick || (halted || next >= ticks) && !waits {
                break;
            }
        }
        self.found(machine)
    }

    fn found(&self, machine: &Machine) -> Machine {
        let mut ram = vec![0; RAM];
        self.cpu.memory.read(0, &mut ram);
        Machine {
            mode: machine.mode,
            state: self.cpu.state.canonical(),
            ram,
        }
    }
}
