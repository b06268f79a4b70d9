package tinyinit

import _ "embed"

//go:embed init_arm64.elf
var blob []byte
