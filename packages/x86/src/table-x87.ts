// Opcode rows: x87 floating point (SDM vol. 2 appendix A.5). Operands that the manual leaves out are spelled out.
import { type RowSpec, row } from './row.ts';

type Name = RowSpec['mnemonic'];

const ARITHMETIC: readonly Name[] = ['FADD', 'FMUL', 'FCOM', 'FCOMP', 'FSUB', 'FSUBR', 'FDIV', 'FDIVR'];
const INTEGER_ARITHMETIC: readonly Name[] = ['FIADD', 'FIMUL', 'FICOM', 'FICOMP', 'FISUB', 'FISUBR', 'FIDIV', 'FIDIVR'];
// DC and DE to ST(i): subtraction and division have traded places with their reverses.
const TO_STI: readonly Name[] = ['FADD', 'FMUL', 'FCOM', 'FCOMP', 'FSUBR', 'FSUB', 'FDIVR', 'FDIV'];
const TO_STI_POP: readonly Name[] = ['FADDP', 'FMULP', 'FCOMP', 'FCOMPP', 'FSUBRP', 'FSUBP', 'FDIVRP', 'FDIVP'];

/** x87 rows. */
export const X87: readonly RowSpec[] = [
  ...ARITHMETIC.flatMap((name, n) => [
    row(`D8 /${n} mem`, name, 'ST0,Md'),
    row(`DC /${n} mem`, name, 'ST0,Mq'),
    row(`D8 /${n} reg`, name, 'ST0,STi'),
  ]),
  ...INTEGER_ARITHMETIC.flatMap((name, n) => [
    row(`DA /${n} mem`, name, 'ST0,Md'),
    row(`DE /${n} mem`, name, 'ST0,Mw'),
  ]),
  ...TO_STI.map((name, n) =>
    // DC /2 and /3 are undocumented twins of D8 /2 and /3.
    row(`DC /${n} reg`, name, n === 2 || n === 3 ? 'ST0,STi' : 'STi,ST0'),
  ),
  ...TO_STI_POP.map((name, n) =>
    n === 3 ? row('DE /3 reg rm=1', name, '') : row(`DE /${n} reg`, name, n === 2 ? 'ST0,STi' : 'STi,ST0'),
  ),
  row('D9 /0 mem', 'FLD', 'ST0,Md'),
  row('D9 /2 mem', 'FST', 'Md,ST0'),
  row('D9 /3 mem', 'FSTP', 'Md,ST0'),
  row('D9 /4 mem', 'FLDENV', 'Me'),
  row('D9 /5 mem', 'FLDCW', 'Mw'),
  row('D9 /6 mem', 'FNSTENV', 'Me'),
  row('D9 /7 mem', 'FNSTCW', 'Mw'),
  row('D9 /0 reg', 'FLD', 'ST0,STi'),
  row('D9 /1 reg', 'FXCH', 'ST0,STi'),
  row('D9 /2 reg rm=0', 'FNOP', ''),
  row('D9 /3 reg', 'FSTP', 'STi,ST0'), // undocumented twin of DD /3
  row('D9 /4 reg rm=0', 'FCHS', ''),
  row('D9 /4 reg rm=1', 'FABS', ''),
  row('D9 /4 reg rm=4', 'FTST', ''),
  row('D9 /4 reg rm=5', 'FXAM', ''),
  row('D9 /5 reg rm=0', 'FLD1', ''),
  row('D9 /5 reg rm=1', 'FLDL2T', ''),
  row('D9 /5 reg rm=2', 'FLDL2E', ''),
  row('D9 /5 reg rm=3', 'FLDPI', ''),
  row('D9 /5 reg rm=4', 'FLDLG2', ''),
  row('D9 /5 reg rm=5', 'FLDLN2', ''),
  row('D9 /5 reg rm=6', 'FLDZ', ''),
  row('D9 /6 reg rm=0', 'F2XM1', ''),
  row('D9 /6 reg rm=1', 'FYL2X', ''),
  row('D9 /6 reg rm=2', 'FPTAN', ''),
  row('D9 /6 reg rm=3', 'FPATAN', ''),
  row('D9 /6 reg rm=4', 'FXTRACT', ''),
  row('D9 /6 reg rm=5', 'FPREM1', ''),
  row('D9 /6 reg rm=6', 'FDECSTP', ''),
  row('D9 /6 reg rm=7', 'FINCSTP', ''),
  row('D9 /7 reg rm=0', 'FPREM', ''),
  row('D9 /7 reg rm=1', 'FYL2XP1', ''),
  row('D9 /7 reg rm=2', 'FSQRT', ''),
  row('D9 /7 reg rm=3', 'FSINCOS', ''),
  row('D9 /7 reg rm=4', 'FRNDINT', ''),
  row('D9 /7 reg rm=5', 'FSCALE', ''),
  row('D9 /7 reg rm=6', 'FSIN', ''),
  row('D9 /7 reg rm=7', 'FCOS', ''),
  row('DA /0 reg', 'FCMOVB', 'ST0,STi'),
  row('DA /1 reg', 'FCMOVE', 'ST0,STi'),
  row('DA /2 reg', 'FCMOVBE', 'ST0,STi'),
  row('DA /3 reg', 'FCMOVU', 'ST0,STi'),
  row('DA /5 reg rm=1', 'FUCOMPP', ''),
  row('DB /0 mem', 'FILD', 'ST0,Md'),
  row('DB /1 mem', 'FISTTP', 'Md,ST0', '+sse3'),
  row('DB /2 mem', 'FIST', 'Md,ST0'),
  row('DB /3 mem', 'FISTP', 'Md,ST0'),
  row('DB /5 mem', 'FLD', 'ST0,Mt'),
  row('DB /7 mem', 'FSTP', 'Mt,ST0'),
  row('DB /0 reg', 'FCMOVNB', 'ST0,STi'),
  row('DB /1 reg', 'FCMOVNE', 'ST0,STi'),
  row('DB /2 reg', 'FCMOVNBE', 'ST0,STi'),
  row('DB /3 reg', 'FCMOVNU', 'ST0,STi'),
  row('DB /4 reg rm=0', 'FNENI', ''), // 8087 only; does nothing since the 287
  row('DB /4 reg rm=1', 'FNDISI', ''), // likewise
  row('DB /4 reg rm=2', 'FNCLEX', ''),
  row('DB /4 reg rm=3', 'FNINIT', ''),
  row('DB /4 reg rm=4', 'FNSETPM', ''), // 287 only; does nothing since the 387
  row('DB /5 reg', 'FUCOMI', 'ST0,STi'),
  row('DB /6 reg', 'FCOMI', 'ST0,STi'),
  row('DD /0 mem', 'FLD', 'ST0,Mq'),
  row('DD /1 mem', 'FISTTP', 'Mq,ST0', '+sse3'),
  row('DD /2 mem', 'FST', 'Mq,ST0'),
  row('DD /3 mem', 'FSTP', 'Mq,ST0'),
  row('DD /4 mem', 'FRSTOR', 'Mn'),
  row('DD /6 mem', 'FNSAVE', 'Mn'),
  row('DD /7 mem', 'FNSTSW', 'Mw'),
  row('DD /0 reg', 'FFREE', 'STi'),
  row('DD /1 reg', 'FXCH', 'ST0,STi'), // undocumented twin of D9 /1
  row('DD /2 reg', 'FST', 'STi,ST0'),
  row('DD /3 reg', 'FSTP', 'STi,ST0'),
  row('DD /4 reg', 'FUCOM', 'ST0,STi'),
  row('DD /5 reg', 'FUCOMP', 'ST0,STi'),
  row('DF /0 mem', 'FILD', 'ST0,Mw'),
  row('DF /1 mem', 'FISTTP', 'Mw,ST0', '+sse3'),
  row('DF /2 mem', 'FIST', 'Mw,ST0'),
  row('DF /3 mem', 'FISTP', 'Mw,ST0'),
  row('DF /4 mem', 'FBLD', 'ST0,Mt'),
  row('DF /5 mem', 'FILD', 'ST0,Mq'),
  row('DF /6 mem', 'FBSTP', 'Mt,ST0'),
  row('DF /7 mem', 'FISTP', 'Mq,ST0'),
  row('DF /0 reg', 'FFREEP', 'STi'), // undocumented: FFREE and pop
  row('DF /1 reg', 'FXCH', 'ST0,STi'), // undocumented twin of D9 /1
  row('DF /2 reg', 'FSTP', 'STi,ST0'), // undocumented twin of DD /3
  row('DF /3 reg', 'FSTP', 'STi,ST0'), // likewise
  row('DF /4 reg rm=0', 'FNSTSW', 'AX'),
  row('DF /5 reg', 'FUCOMIP', 'ST0,STi'),
  row('DF /6 reg', 'FCOMIP', 'ST0,STi'),
];
