"""The operator on Kubernetes: watches, decides and acts on ThreadClusters, and writes their status."""
