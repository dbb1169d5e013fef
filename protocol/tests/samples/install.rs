//! What is said until the disk carries a system.

use super::{CLUSTER, disk_id, name, node_key, number, online, seen};
use muster_protocol::class::Class;
use muster_protocol::hello::{Answer, Hello, MarkerSummary, Wait, wait};
use muster_protocol::ids::{Arch, Digest, Mac};
use muster_protocol::image::{Frame, ImageIndex, Stored};
use muster_protocol::inventory::{Bus, Contents, Cpu, Disk, Dmi, Firmware, Inventory, Nic, PciDevice};
use muster_protocol::marker::{Marker, MarkerState, Slot};
use muster_protocol::order::{Order, Wipe};
use muster_protocol::signed::Signed;
use muster_protocol::sync::Claim;

pub(crate) fn inventory() -> Inventory {
    Inventory {
        arch: Arch::Aarch64,
        dmi: Dmi {
            vendor: Some("NVIDIA".into()),
            product: Some("NVIDIA_DGX_Spark".into()),
            board: Some("P4242".into()),
            serial: Some("1".into()),
            uuid: Some("u".into()),
            bios_version: Some("5.36".into()),
        },
        cpu: Cpu { model: "Cortex-X925".into(), threads: 20 },
        memory_bytes: 128 << 30,
        disks: vec![Disk {
            name: "nvme0n1".into(),
            id: disk_id(),
            model: Some("SAMSUNG".into()),
            bus: Bus::Nvme,
            removable: false,
            rotational: false,
            logical_block_bytes: 512,
            contents: Some(Contents {
                empty: false,
                evidence: Digest([7; 32]),
                found: vec!["GPT with 3 partitions".into()],
                busy: false,
            }),
        }],
        nics: vec![Nic {
            name: "eth0".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            driver: Some("r8169".into()),
            carrier: true,
            speed_mbps: Some(10_000),
        }],
        pci: vec![PciDevice {
            slot: "000f:01:00.0".into(),
            vendor: 0x10de,
            device: 0x2e12,
            class: 0x03_0000,
        }],
        firmware: Firmware { uefi: true, secure_boot: Some(true), variables: true },
        kvm: true,
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        inventory: muster_protocol::wire::encode(&inventory()),
        marker: Some(MarkerSummary {
            cluster: CLUSTER,
            order: number(12),
            installed: true,
            uki: Digest([2; 32]),
            image: Digest([1; 32]),
        }),
        seen: seen(),
        uptime_ms: 5_000,
        mac: Mac([2, 0, 0, 0, 0, 1]),
    }
}

pub(crate) fn answers() -> Vec<Answer> {
    vec![
        Answer::Boot,
        Answer::Install(Signed::by_online(CLUSTER, &online(), &order())),
        Answer::Wait(Wait { code: wait::NOT_ADMITTED, reason: "not admitted".into() }),
        Answer::FetchUki(Digest([2; 32])),
    ]
}

pub(crate) fn marker() -> Marker {
    Marker {
        sequence: 3,
        cluster: CLUSTER,
        node: name("mini-pc-1"),
        key: node_key().public().fingerprint(),
        order: number(12),
        state: MarkerState::Installed,
        slots: [
            Some(Slot {
                image: Digest([1; 32]),
                uki: Digest([2; 32]),
                uki_name: "muster-6.12.48-02020202".into(),
                kernel_release: "6.12.48+deb13-amd64".into(),
                written: 1,
                tries_left: 3,
                good: true,
            }),
            None,
        ],
        reinstall_pending: false,
        fetched: vec![Digest([2; 32])],
    }
}

pub(crate) fn image() -> ImageIndex {
    ImageIndex {
        arch: Arch::X86_64,
        version: "debian-13-20261124".into(),
        kernel_release: "6.12.48+deb13-amd64".into(),
        raw_bytes: 8 << 20,
        blob: Digest([5; 32]),
        blob_bytes: 1 << 20,
        frames: vec![
            Frame { raw: Digest([1; 32]), stored: Stored::Zstd { offset: 0, bytes: 1 << 20 } },
            Frame { raw: Digest([2; 32]), stored: Stored::Zero },
        ],
    }
}

pub(crate) fn order() -> Order {
    Order {
        number: number(12),
        node: name("mini-pc-1"),
        key: node_key().public().fingerprint(),
        class: Class::MiniPc,
        disk: disk_id(),
        wipe: Wipe::Plan(muster_protocol::order::PlanId::of(&disk_id(), &Digest([7; 32]))),
        image: Digest([1; 32]),
        uki: Digest([2; 32]),
        uki_bytes: 30 << 20,
        loader: Digest([3; 32]),
        loader_bytes: 120 << 10,
        expires_at: 1_795_600_000,
    }
}

pub(crate) fn claim() -> Claim {
    Claim { order: number(12), disk: disk_id() }
}
