package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Box writes what the Vagrantfile needs into build/vagrant of the source tree
// at root, and returns that directory: the box, made of the same file system
// that other machines boot from; kernels, with initial file systems that let a
// key log in that is made here; a certificate for each host. Keys and
// certificates stay as they are while there are some.
func Box(ctx context.Context, root string, log io.Writer) (dir string, err error) {
	d, err := Defined()
	if err != nil {
		return "", err
	}
	im, err := ReadyImage(ctx, d, root, false, log)
	if err != nil {
		return "", err
	}
	bin, err := buildPrograms(ctx, root)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(root, "build", "vagrant")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	key, err := boxKey(ctx, dir)
	if err != nil {
		return "", err
	}
	if err := boxKernels(im, filepath.Join(bin, "guest"), key+".pub", dir); err != nil {
		return "", err
	}
	if err := boxCertificates(ctx, d.Hosts, bin, dir); err != nil {
		return "", err
	}
	return dir, boxDisk(ctx, im, dir)
}

// boxKey makes the pair of keys for SSH.
func boxKey(ctx context.Context, dir string) (string, error) {
	key := filepath.Join(dir, "id_ed25519")
	if _, err := os.Stat(key); err == nil {
		return key, nil
	}
	return key, command(ctx, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "migrate's vagrant machines", "-f", key)
}

func boxKernels(im Image, program, keys, dir string) error {
	for _, k := range im.Kernels {
		to := filepath.Join(dir, "kernels", k.Suite)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		kernel, err := os.ReadFile(filepath.Join(k.dir, "vmlinuz"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, "vmlinuz"), kernel, 0o644); err != nil {
			return err
		}
		if err := writeInitrd(filepath.Join(to, "initrd"), k, program, keys); err != nil {
			return err
		}
	}
	return nil
}

func boxCertificates(ctx context.Context, hosts []Host, bin, dir string) error {
	pki := filepath.Join(dir, "certificates")
	if _, err := os.Stat(pki); err == nil {
		return nil
	}
	err := certificates(ctx, hosts, bin, pki)
	if err != nil {
		err = errors.Join(err, os.RemoveAll(pki))
	}
	return err
}

// boxDisk makes the box, if there is none of this image. Its name is that of
// the image, as Vagrant keeps boxes by name.
func boxDisk(ctx context.Context, im Image, dir string) error {
	fi, err := os.Stat(im.Disk())
	if err != nil {
		return err
	}
	box := filepath.Join(dir, fmt.Sprintf("migrate-%s-%d.box", filepath.Base(im.Dir), fi.ModTime().Unix()))
	if _, err := os.Stat(box); err == nil {
		return nil
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.box"))
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := os.Remove(o); err != nil {
			return err
		}
	}
	return packBox(ctx, im.Disk(), fi.Size(), dir, box)
}

func packBox(ctx context.Context, disk string, size int64, dir, box string) (err error) {
	tmp, err := os.MkdirTemp(dir, "box")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	// https://vagrant-libvirt.github.io/vagrant-libvirt/boxes.html; the size is in GiB.
	about, err := json.Marshal(map[string]any{"provider": "libvirt", "format": "qcow2", "virtual_size": (size + 1<<30 - 1) >> 30})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "metadata.json"), about, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "Vagrantfile"), nil, 0o644); err != nil {
		return err
	}
	if err := command(ctx, tmp, "qemu-img", "convert", "-O", "qcow2", "-c", disk, "box.img"); err != nil {
		return err
	}
	if err := command(ctx, tmp, "tar", "-cf", "new.box", "metadata.json", "Vagrantfile", "box.img"); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "new.box"), box)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
