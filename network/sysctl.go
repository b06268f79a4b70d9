package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The settings that move: those of which each network namespace has its own and
// that somebody sets on purpose. What is counted, read-only, secret or sized
// after the host's memory stays. Source: ip-sysctl.rst of the kernel. They are set in
// this order, because some change others: ip_forward those of every link.
var (
	sysctlsOfNamespace = words(`
ipv4/ip_forward
core/somaxconn core/optmem_max core/txrehash unix/max_dgram_qlen
ipv4/fib_multipath_hash_fields ipv4/fib_multipath_hash_policy ipv4/fib_multipath_use_neigh
ipv4/fwmark_reflect ipv4/icmp_echo_enable_probe ipv4/icmp_echo_ignore_all ipv4/icmp_echo_ignore_broadcasts
ipv4/icmp_errors_use_inbound_ifaddr ipv4/icmp_ignore_bogus_error_responses ipv4/icmp_ratelimit ipv4/icmp_ratemask
ipv4/igmp_link_local_mcast_reports ipv4/igmp_max_memberships ipv4/igmp_max_msf ipv4/igmp_qrv
ipv4/ip_autobind_reuse ipv4/ip_default_ttl ipv4/ip_dynaddr ipv4/ip_early_demux ipv4/ip_forward_update_priority
ipv4/ip_forward_use_pmtu ipv4/ip_local_port_range ipv4/ip_local_reserved_ports ipv4/ip_no_pmtu_disc
ipv4/ip_nonlocal_bind ipv4/ip_unprivileged_port_start ipv4/ping_group_range ipv4/nexthop_compat_mode
ipv4/tcp_abort_on_overflow ipv4/tcp_adv_win_scale ipv4/tcp_app_win ipv4/tcp_autocorking
ipv4/tcp_backlog_ack_defer ipv4/tcp_base_mss ipv4/tcp_challenge_ack_limit ipv4/tcp_comp_sack_delay_ns ipv4/tcp_comp_sack_nr
ipv4/tcp_comp_sack_slack_ns ipv4/tcp_congestion_control ipv4/tcp_dsack ipv4/tcp_early_demux
ipv4/tcp_early_retrans ipv4/tcp_ecn ipv4/tcp_ecn_fallback ipv4/tcp_fastopen
ipv4/tcp_fastopen_blackhole_timeout_sec ipv4/tcp_fin_timeout ipv4/tcp_frto ipv4/tcp_fwmark_accept
ipv4/tcp_invalid_ratelimit ipv4/tcp_keepalive_intvl ipv4/tcp_keepalive_probes ipv4/tcp_keepalive_time
ipv4/tcp_limit_output_bytes ipv4/tcp_max_reordering ipv4/tcp_max_syn_backlog ipv4/tcp_migrate_req
ipv4/tcp_min_rtt_wlen ipv4/tcp_min_snd_mss ipv4/tcp_min_tso_segs ipv4/tcp_moderate_rcvbuf
ipv4/tcp_mtu_probe_floor ipv4/tcp_mtu_probing ipv4/tcp_no_metrics_save ipv4/tcp_no_ssthresh_metrics_save
ipv4/tcp_notsent_lowat ipv4/tcp_orphan_retries ipv4/tcp_pacing_ca_ratio ipv4/tcp_pacing_ss_ratio
ipv4/tcp_pingpong_thresh ipv4/tcp_probe_interval ipv4/tcp_probe_threshold ipv4/tcp_recovery
ipv4/tcp_reflect_tos ipv4/tcp_reordering ipv4/tcp_retrans_collapse ipv4/tcp_retries1 ipv4/tcp_retries2
ipv4/tcp_rfc1337 ipv4/tcp_rmem ipv4/tcp_rto_max_ms ipv4/tcp_rto_min_us ipv4/tcp_sack ipv4/tcp_shrink_window
ipv4/tcp_slow_start_after_idle ipv4/tcp_stdurg ipv4/tcp_syn_linear_timeouts ipv4/tcp_syn_retries
ipv4/tcp_synack_retries ipv4/tcp_syncookies ipv4/tcp_thin_linear_timeouts ipv4/tcp_timestamps
ipv4/tcp_tso_rtt_log ipv4/tcp_tso_win_divisor ipv4/tcp_tw_reuse ipv4/tcp_window_scaling ipv4/tcp_wmem
ipv4/tcp_workaround_signed_windows ipv4/udp_early_demux ipv4/udp_rmem_min ipv4/udp_wmem_min
ipv6/anycast_src_echo_reply ipv6/auto_flowlabels ipv6/bindv6only ipv6/fib_multipath_hash_fields
ipv6/fib_multipath_hash_policy ipv6/flowlabel_consistency ipv6/flowlabel_reflect ipv6/flowlabel_state_ranges
ipv6/fwmark_reflect ipv6/icmp/echo_ignore_all ipv6/icmp/echo_ignore_anycast ipv6/icmp/echo_ignore_multicast
ipv6/icmp/ratelimit ipv6/icmp/ratemask ipv6/idgen_delay ipv6/idgen_retries ipv6/ip_nonlocal_bind
ipv6/max_dst_opts_length ipv6/max_dst_opts_number ipv6/max_hbh_length ipv6/max_hbh_opts_number
netfilter/nf_conntrack_tcp_be_liberal netfilter/nf_conntrack_tcp_loose`)

	sysctlsOfLink = words(`
ipv4/forwarding
ipv4/accept_local ipv4/accept_redirects ipv4/accept_source_route ipv4/arp_accept ipv4/arp_announce
ipv4/arp_evict_nocarrier ipv4/arp_filter ipv4/arp_ignore ipv4/arp_notify ipv4/bc_forwarding ipv4/disable_policy
ipv4/disable_xfrm ipv4/drop_gratuitous_arp ipv4/drop_unicast_in_l2_multicast ipv4/force_igmp_version
ipv4/ignore_routes_with_linkdown ipv4/log_martians ipv4/medium_id ipv4/promote_secondaries ipv4/proxy_arp
ipv4/proxy_arp_pvlan ipv4/route_localnet ipv4/rp_filter ipv4/secure_redirects ipv4/send_redirects
ipv4/shared_media ipv4/src_valid_mark ipv4/tag
ipv6/forwarding
ipv6/stable_secret
ipv6/addr_gen_mode ipv6/accept_dad ipv6/accept_ra ipv6/accept_ra_defrtr ipv6/accept_ra_from_local
ipv6/accept_ra_min_hop_limit ipv6/accept_ra_min_lft ipv6/accept_ra_mtu ipv6/accept_ra_pinfo
ipv6/accept_ra_rt_info_max_plen ipv6/accept_ra_rt_info_min_plen ipv6/accept_ra_rtr_pref ipv6/accept_redirects
ipv6/accept_source_route ipv6/accept_untracked_na ipv6/autoconf ipv6/dad_transmits ipv6/disable_ipv6
ipv6/disable_policy ipv6/drop_unicast_in_l2_multicast ipv6/drop_unsolicited_na ipv6/enhanced_dad
ipv6/force_mld_version ipv6/force_tllao ipv6/hop_limit ipv6/ignore_routes_with_linkdown ipv6/keep_addr_on_down
ipv6/max_addresses ipv6/max_desync_factor ipv6/ndisc_evict_nocarrier ipv6/ndisc_notify ipv6/ndisc_tclass
ipv6/optimistic_dad ipv6/proxy_ndp ipv6/ra_defrtr_metric ipv6/ra_honor_pio_life ipv6/ra_honor_pio_pflag
ipv6/regen_max_retry ipv6/router_probe_interval ipv6/router_solicitation_delay
ipv6/router_solicitation_interval ipv6/router_solicitation_max_interval ipv6/router_solicitations
ipv6/seg6_enabled ipv6/seg6_require_hmac ipv6/suppress_frag_ndisc ipv6/temp_prefered_lft
ipv6/temp_valid_lft ipv6/use_oif_addrs_only ipv6/use_optimistic ipv6/use_tempaddr`)
)

func words(text string) []string { return strings.Fields(text) }

// sysctlNames returns the names of Description.Sysctls, in the order to set them.
var sysctlNames = slices.Concat(sysctlsOfNamespace, ofLink("all"), ofLink("default"))

// ofLink returns the names of one link's settings, below /proc/sys/net.
func ofLink(link string) []string {
	var list []string
	for _, name := range sysctlsOfLink {
		list = append(list, linkSysctl(link, name))
	}
	return list
}

func linkSysctl(link, name string) string {
	family, setting, _ := strings.Cut(name, "/")
	return family + "/conf/" + link + "/" + setting
}

// maxSysctl bounds a value, bytes. The longest is a list of ports.
const maxSysctl = 4096

// readSysctls reads the named settings of the calling thread's namespace. Those that
// this kernel does not have, or that are not set, are left out.
func readSysctls(names []string) (map[string]string, error) {
	got := map[string]string{}
	buf := make([]byte, maxSysctl)
	for _, name := range names {
		n, err := readFile("/proc/sys/net/"+name, buf)
		switch {
		case errors.Is(err, fs.ErrNotExist), strings.HasSuffix(name, "/stable_secret") && err != nil: // EIO: none
		case err != nil:
			return nil, fmt.Errorf("read setting %s: %w", name, err)
		default:
			got[name] = strings.TrimRight(string(buf[:n]), "\n")
		}
	}
	return got, nil
}

// readFile reads a small file of procfs. There are hundreds, while the workload waits;
// with os.File each would take four times as long.
func readFile(path string, buf []byte) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.Read(fd, buf)
}

// readLinkSysctls is readSysctls for one link.
func readLinkSysctls(link string) (map[string]string, error) {
	all, err := readSysctls(ofLink(link))
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	for _, name := range sysctlsOfLink {
		if v, ok := all[linkSysctl(link, name)]; ok {
			got[name] = v
		}
	}
	return got, nil
}

// writeSysctls sets, of the named settings of the calling thread's namespace, those
// that are wanted and not as they should be. If have is nil it is read first.
func writeSysctls(names []string, want, have map[string]string) error {
	if have == nil {
		var err error
		if have, err = readSysctls(names); err != nil {
			return err
		}
	}
	for _, name := range names {
		v, wanted := want[name]
		if now, exists := have[name]; !wanted || exists && now == v || !exists && !strings.HasSuffix(name, "/stable_secret") {
			continue // Check has told of those that do not exist here
		}
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(v), 0); err != nil {
			return fmt.Errorf("set %s to %q: %w", name, v, err)
		}
	}
	return nil
}

// writeLinkSysctls is writeSysctls for one link.
func writeLinkSysctls(link string, want, have map[string]string) error {
	if have != nil {
		have = fullNames(link, have)
	}
	return writeSysctls(ofLink(link), fullNames(link, want), have)
}

func fullNames(link string, values map[string]string) map[string]string {
	full := map[string]string{}
	for name, v := range values {
		full[linkSysctl(link, name)] = v
	}
	return full
}

// baseline is what settings are in a fresh namespace. To know that ahead spares reading
// them, which in a namespace where nobody has looked yet takes 10 ms, while a
// workload waits.
type baseline struct{ all, lo, link map[string]string }

func readBaseline() (*baseline, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := ns.handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	const link = "any0"
	v := netlink.NewVeth(netlink.LinkAttrs{Name: link, TxQLen: -1})
	v.PeerName = "any1"
	if err := h.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("make a link to look at: %w", err)
	}
	var b baseline
	err = ns.Do(func() (err error) {
		if b.all, err = readSysctls(sysctlNames); err != nil {
			return err
		}
		if b.lo, err = readLinkSysctls("lo"); err != nil {
			return err
		}
		b.link, err = readLinkSysctls(link)
		return err
	})
	return &b, err
}

// fits reports whether a namespace differs from the baseline only in what changes
// nothing but itself. Whoever sets ip_forward, conf/all or conf/default changes others.
func (b *baseline) fits(want map[string]string) bool {
	if b == nil {
		return false
	}
	for name, v := range want {
		if strings.Contains(name, "/conf/") || name == "ipv4/ip_forward" {
			if now, exists := b.all[name]; exists && now != v {
				return false
			}
		}
	}
	return true
}
