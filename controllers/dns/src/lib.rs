//! kube-dns.
