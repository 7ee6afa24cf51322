-- The cluster that the database belongs to, as no other cluster can name itself by accident; and pins made by command.

-- Empty until a cluster with these facts claims the database: then the cluster id alone says whose it is.
ALTER TABLE meta
    ADD COLUMN holder_uid  text NOT NULL DEFAULT '',   -- of the ThreadCluster; locally of the data directory
    ADD COLUMN holder_name text NOT NULL DEFAULT '',   -- <namespace>/<name>
    ADD COLUMN holder_site text NOT NULL DEFAULT '',   -- the Kubernetes cluster; locally the data directory again
    ADD COLUMN holder_seen_at timestamptz NOT NULL DEFAULT '-infinity';

-- The worker that a shard was pinned to by command; a pin in the resource wins.
ALTER TABLE shard_target ADD COLUMN pin text;
