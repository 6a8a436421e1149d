import { Bus, TimerQueue } from '@hyve/core';
import { claimIoApic, IoApic } from '@hyve/vmm/ioapic';
import { ApicBus, LocalApic } from '@hyve/vmm/lapic';

let ns = 0;
const clock = new TimerQueue(() => ns);
const mmio = new Bus({ name: 'mmio', size: 2 ** 52 });
const apics = new ApicBus();
const lapic = new LocalApic({ bus: apics, index: 0, clock, tscHz: 2_000_000_000 });
lapic.enterVirtualWire();
const ioapic = new IoApic({ bus: apics });
claimIoApic(mmio, ioapic);

mmio.write(0xfec00000, 1, 0x10 + 2 * 4); // the guest routes pin 4 to vector 0x34
mmio.write(0xfec00010, 4, 0x34);
ioapic.connect(4, 'com1').set(true); // a device raises it
console.log(lapic.hasInterrupt(), lapic.acknowledge().toString(16)); // true 34
lapic.mmioWrite(0xb0, 4, 0); // EOI

lapic.mmioWrite(0x320, 4, 0x41); // one-shot timer, vector 0x41
lapic.mmioWrite(0x380, 4, 500); // divided by 2: 1000 ns
ns = 1000;
clock.runDue();
console.log(lapic.acknowledge().toString(16)); // 41
