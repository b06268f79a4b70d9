package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"migrate/transport/pki"
)

const pkiLong = `Makes and shows the certificates by which hosts know each other. Make an
authority on one host, issue a certificate for each, and copy the three files
that "issue" names to the other hosts' /etc/migrate/pki. The authority's key,
ca.key, stays where it is. Certificates of another authority work as well: see
"migrate pki show" for what a host needs.`

const pkiExample = `  migrate pki init
  migrate pki issue hostA --out /etc/migrate/pki
  migrate pki issue hostB --san 10.0.0.2
  scp hostB/* root@hostB:/etc/migrate/pki/`

func newPKICommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "pki COMMAND",
		Short:   "Make and show certificates",
		Long:    pkiLong,
		Example: pkiExample,
		Args:    unknownCommand,
		RunE:    func(*cobra.Command, []string) error { return usagef("want init, issue or show") },
	}
	cmd.AddCommand(newPKIInitCommand(a), newPKIIssueCommand(a), newPKIShowCommand(a))
	return cmd
}

func newPKIInitCommand(a *app) *cobra.Command {
	var dir, name string
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Make a certificate authority",
		Long:    "Makes a certificate authority: ca.crt, and ca.key, which nobody else may have.\nAn authority that is there already is not replaced.",
		Example: "  migrate pki init --dir /root/migrate-ca --name example.org",
		Args:    exactly(""),
		RunE: func(*cobra.Command, []string) error {
			dir := cmp.Or(dir, a.pkiDir)
			if err := pki.CheckName(name); err != nil {
				return usagef("--name: %w", err)
			}
			if err := pki.Init(dir, name); err != nil {
				return err
			}
			return a.printFiles(dir, pki.CACertFile, pki.CAKeyFile)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "where to put it (default: --pki-dir)")
	cmd.Flags().StringVar(&name, "name", "migrate-ca", "name of the authority")
	return cmd
}

type issueOptions struct {
	sans       []string
	caDir, out string
	days       int
}

func newPKIIssueCommand(a *app) *cobra.Command {
	var opts issueOptions
	cmd := &cobra.Command{
		Use:     "issue NAME",
		Short:   "Issue a certificate for a host",
		Long:    "Issues a certificate for the host NAME, which is how other hosts' --allow knows\nit, and puts it with its key and the authority's certificate into a directory,\nready to be copied to the host. What is there is replaced.",
		Example: "  migrate pki issue hostB --san 10.0.0.2 --san hostb.example.org",
		Args:    exactly("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			return runIssue(a, opts, args[0])
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&opts.sans, "san", nil, "one more name or IP address of the host; may be repeated")
	f.StringVar(&opts.caDir, "ca-dir", "", "where the authority is (default: --pki-dir)")
	f.StringVar(&opts.out, "out", "", "where to put the files (default: ./NAME)")
	f.IntVar(&opts.days, "days", int(pki.DefaultValidity/(24*time.Hour)), "days for which it is valid")
	return cmd
}

func runIssue(a *app, opts issueOptions, name string) error {
	if err := pki.CheckName(name); err != nil {
		return &usageError{err}
	}
	if opts.days <= 0 || opts.days > 36500 {
		return usagef("--days: want 1 to 36500")
	}
	out := cmp.Or(opts.out, name)
	err := pki.Issue(cmp.Or(opts.caDir, a.pkiDir), out, name, opts.sans, time.Duration(opts.days)*24*time.Hour)
	if isMissing(err) {
		return advise(err, "make the authority first: migrate pki init")
	}
	if err != nil {
		return err
	}
	return a.printFiles(out, pki.CACertFile, pki.HostCertFile, pki.HostKeyFile)
}

func (a *app) printFiles(dir string, names ...string) error {
	for _, name := range names {
		if _, err := fmt.Fprintln(a.stdout, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func newPKIShowCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show this host's certificate",
		Long: `Shows this host's certificate as other hosts see it, after checking it. A host
needs in --pki-dir: ca.crt, the authority's certificate; host.crt, whose first DNS
name is the host's and which servers and clients may use; and host.key, mode 600.`,
		Example: "  migrate pki show",
		Args:    exactly(""),
		RunE: func(*cobra.Command, []string) error {
			id, err := a.identity()
			if err != nil {
				return err
			}
			a.printer().list([]string{"NAME", "ALSO", "AUTHORITY", "VALID UNTIL", "SHA256"}, []row{certRowOf(id)})
			return nil
		},
	}
	a.bindJSON(cmd.Flags())
	return cmd
}

// certRow is a host's certificate.
type certRow struct {
	Type      string    `json:"type"` // always "certificate"
	Name      string    `json:"name"`
	Also      []string  `json:"also"` // other names and addresses
	Authority string    `json:"authority"`
	NotBefore time.Time `json:"not-before"`
	NotAfter  time.Time `json:"not-after"`
	SHA256    string    `json:"sha256"`
}

func certRowOf(id pki.Identity) certRow {
	cert := id.Certificate.Leaf
	sum := sha256.Sum256(cert.Raw)
	also := append([]string{}, cert.DNSNames[1:]...)
	for _, ip := range cert.IPAddresses {
		also = append(also, ip.String())
	}
	return certRow{
		Type: "certificate", Name: id.Name, Also: also, Authority: cert.Issuer.CommonName,
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, SHA256: hex.EncodeToString(sum[:]),
	}
}

func (r certRow) cells() []string {
	return []string{r.Name, strings.Join(r.Also, " "), r.Authority, r.NotAfter.Format(time.DateOnly), r.SHA256}
}
