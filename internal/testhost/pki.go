package testhost

import "migrate/transport/pki"

// issueCertificates makes an authority for the set and a certificate for each
// host in the host's own directory.
func (s *Set) issueCertificates() error {
	ca := s.path("ca")
	if err := pki.Init(ca, "testhost."+s.name); err != nil {
		return err
	}
	for _, h := range s.hosts {
		if err := pki.Issue(ca, h.path("pki"), h.Name, []string{h.Address()}, 0); err != nil {
			return err
		}
	}
	return nil
}
