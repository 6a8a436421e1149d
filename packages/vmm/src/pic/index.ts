// The 8259A pair.
export { claimPic, Pic8259, type PicChipStateV1, type PicOptions, type PicStateV1 } from './pic8259.ts';
