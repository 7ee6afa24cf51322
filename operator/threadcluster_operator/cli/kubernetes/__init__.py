"""A cluster on Kubernetes, as a user reaches it: under his own rights, from wherever his kubeconfig works.

Its workers' internal API is reached by *port-forward* to a ready worker's pod, as `kubectl port-forward` does.  The API
server's *pod proxy* was refused for two reasons.  The internal API authenticates by the client's certificate, and a proxy
ends the TLS of the client; port-forward passes its bytes through.  And the proxy reaches the pod from the control plane's own address, which the cluster's NetworkPolicy does not
let in; the kubelet's port-forward begins inside the pod's network, where no policy holds.

A command therefore needs these rights: to read the ThreadCluster, to list pods, to forward a port to one, and to read the one
Secret `<name>-internal`; `pin` also changes the ThreadCluster.  The built-in role edit has all that with what
manifests/base/users.yaml adds to it, and manifests/users is a Role with no more.
"""
