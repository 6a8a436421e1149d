# bash completion of xhyve. Made by src/manual.ts from the option table; do not edit.
_xhyve() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  case $prev in
    -F|-k|-r|--control|--trace|--profile|--symbols) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    -f) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W 'kexec, multiboot, fbsd, bootrom,' -- "$cur")); return ;;
    -l) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W 'help bootrom, com1, com2, com3, com4, fwcfg, tpm, pc-testdev,' -- "$cur")); return ;;
    -s) local slot=${cur%%,*}
        if [[ $cur == *,* ]]; then COMPREPLY=($(compgen -P "$slot," -W 'help hostbridge amd_hostbridge lpc uart dummy virtio-blk virtio-net virtio-tap virtio-vpnkit virtio-rnd virtio-console virtio-scsi virtio-9p virtio-sock virtio-input ahci ahci-hd ahci-cd nvme e1000 xhci fbuf hda passthru' -- "${cur#*,}"))
        else COMPREPLY=($(compgen -W 'help' -- "$cur")); fi
        return ;;
    --engine) COMPREPLY=($(compgen -W 'auto soft kvm' -- "$cur")); return ;;
    -m|-c|-U|-g|-G|-p|-n|-K|-o) return ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W '-f -l -s -m -c -A -Y -U -u -x -a -w -e -b -g -G -H -P -W -C -S -D -p -n -K -r -F -k -o -M -h -v --engine --dry-run --json --stats --trace --profile --symbols --control --help --version' -- "$cur"))
  elif [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W 'pull images disk ctl' -- "$cur"))
  fi
}
complete -F _xhyve xhyve
