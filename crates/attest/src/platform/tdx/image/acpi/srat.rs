//! SRAT, the System Resource Affinity Table: the NUMA node of each CPU and memory range (ACPI 6.5, 5.2.16).

use super::header::Table;
use super::madt::X2APIC_FROM;
use super::shape::Shape;

/// The memory hole of PCs.
const HOLE: (u64, u64) = (640 << 10, 1 << 20);
const ABOVE_4_GIB: u64 = 1 << 32;

/// A memory range of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    node: u32,
    base: u64,
    length: u64,
}

/// The table, if the VM has NUMA nodes.
pub(super) fn srat(shape: &Shape) -> Option<Vec<u8>> {
    let nodes = shape.nodes.len();
    let mut table = Table::new(b"SRAT", 1);
    table.u32(1).u64(0);
    for cpu in 0..shape.cpus {
        cpu_affinity(&mut table, cpu, shape.node_of_cpu(cpu)?);
    }
    let ranges = ranges(nodes as u32, shape.memory, shape.low_memory());
    for range in &ranges {
        memory_affinity(&mut table, *range, 1);
    }
    // Like QEMU, pads the list to two entries more than there are nodes.
    for _ in ranges.len()..nodes + 2 {
        memory_affinity(&mut table, Range { node: 0, base: 0, length: 0 }, 0);
    }
    Some(table.finish())
}

fn cpu_affinity(table: &mut Table, cpu: u32, node: u32) {
    match u8::try_from(cpu) {
        Ok(cpu) if u32::from(cpu) < X2APIC_FROM => {
            let [low, rest @ ..] = node.to_le_bytes();
            table.bytes(&[0x00, 16, low, cpu]).u32(1).u8(0).bytes(&rest).u32(0)
        }
        _ => table.bytes(&[0x02, 24, 0, 0]).u32(node).u32(cpu).u32(1).u32(0).u32(0),
    };
}

fn memory_affinity(table: &mut Table, Range { node, base, length }: Range, flags: u32) {
    table.bytes(&[0x01, 40]).u32(node).u16(0).u64(base).u64(length).u32(0).u32(flags).u64(0);
}

/// The equal shares of the nodes, one after the other, without the PC's hole and the hole below 4 GiB. QEMU
/// places the upper part higher on some AMD CPUs; TDX needs an Intel CPU.
fn ranges(nodes: u32, memory: u64, low: u64) -> Vec<Range> {
    let mut ranges = Vec::new();
    let share = memory / u64::from(nodes.max(1));
    let mut next = 0u64;
    for node in 0..nodes {
        let mut push = |base: u64, length: u64| {
            if length > 0 {
                ranges.push(Range { node, base, length });
            }
        };
        let mut base = next;
        let end = base.saturating_add(share);
        next = end;
        if base <= HOLE.0 && end > HOLE.0 {
            push(base, HOLE.0 - base);
            if end <= HOLE.1 {
                next = HOLE.1;
                continue;
            }
            base = HOLE.1;
        }
        if base <= low && end > low {
            push(base, low - base);
            base = ABOVE_4_GIB;
            next = base.saturating_add(end - low);
        }
        push(base, next - base);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn shares_leave_out_both_holes() {
        let range = |node, base, length| Range { node, base, length };
        let (lower, upper) = (range(0, 0, 0xa_0000), 0x10_0000);
        for (nodes, memory, low, expected) in [
            (1, 2 * GIB, 2 * GIB, vec![lower, range(0, upper, 2 * GIB - upper)]),
            (1, 3 * GIB, 2 * GIB, vec![lower, range(0, upper, 2 * GIB - upper), range(0, 4 * GIB, GIB)]),
            // A share that ends at the end of low memory.
            (2, 4 * GIB, 2 * GIB, vec![lower, range(0, upper, 2 * GIB - upper), range(1, 4 * GIB, 2 * GIB)]),
            (
                4,
                6 * GIB,
                2 * GIB,
                vec![
                    lower,
                    range(0, upper, GIB * 3 / 2 - upper),
                    range(1, GIB * 3 / 2, GIB / 2),
                    range(1, 4 * GIB, GIB),
                    range(2, 5 * GIB, GIB * 3 / 2),
                    range(3, 5 * GIB + GIB * 3 / 2, GIB * 3 / 2),
                ],
            ),
            // Memory that ends before the PC's hole, and at the end of the hole.
            (1, 512 << 10, 512 << 10, vec![range(0, 0, 512 << 10)]),
            (1, 1 << 20, 1 << 20, vec![lower]),
            (2, 2 << 20, 2 << 20, vec![lower, range(1, upper, 1 << 20)]),
            // Above 1 TiB, where AMD has another hole.
            (
                1,
                2048 * GIB,
                2 * GIB,
                vec![lower, range(0, upper, 2 * GIB - upper), range(0, 4 * GIB, 2046 * GIB)],
            ),
        ] {
            assert_eq!(ranges(nodes, memory, low), expected, "{nodes} {memory:#x}");
        }
    }
}
