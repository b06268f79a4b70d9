package tinyinit

import _ "embed"

//go:embed init_amd64.elf
var blob []byte
