"""Where the journal is: the part of the resource that names a Postgres."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import LOCAL, DataKey, ObjectName, SpecModel, ValidationRule


class SecretKeyRef(SpecModel):
    """A key of a Secret in the cluster's namespace."""

    name: Annotated[ObjectName, Field(description="The Secret's name.", json_schema_extra=LOCAL)]
    key: Annotated[DataKey, Field(description="The key in it.", json_schema_extra=LOCAL)] = "url"


class ConfigMapKeyRef(SpecModel):
    """A key of a ConfigMap in the cluster's namespace."""

    name: Annotated[ObjectName, Field(description="The ConfigMap's name.")]
    key: Annotated[DataKey, Field(description="The key in it.")] = "ca.crt"


class TLSSpec(SpecModel):
    """How the connections to Postgres are encrypted.

    Locally the DSN says it (`sslmode`).
    """

    rules = (
        ValidationRule(
            "!has(self.mode) || self.mode != 'Disable' || !has(self.caConfigMapKeyRef)",
            "a CA has no use while mode is Disable: leave it out, or choose VerifyFull",
            ("caConfigMapKeyRef",),
            lambda tls: tls.mode != "Disable" or tls.ca_config_map_key_ref is None,
        ),
    )

    mode: Annotated[
        Literal["Disable", "Require", "VerifyFull"],
        Field(
            description="Disable: in the clear. Require: encrypted, to any server. VerifyFull: encrypted, and the server"
            " proves by its certificate that it is the host of the DSN."
        ),
    ] = "VerifyFull"
    ca_config_map_key_ref: Annotated[
        ConfigMapKeyRef | None,
        Field(description="The certificates that VerifyFull trusts, as PEM; left out: those of the worker's image."),
    ] = None


class DatabaseSpec(SpecModel):
    """Which Postgres carries the journal.  It outlives the cluster: nothing here ever deletes data."""

    url_secret_key_ref: Annotated[
        SecretKeyRef,
        Field(
            description="The DSN the workers connect with, postgresql://user:password@host:port/database. It is read again at"
            " every connection, so a rotated password needs no restart.",
            json_schema_extra=LOCAL,
        ),
    ]
    migration_url_secret_key_ref: Annotated[
        SecretKeyRef | None,
        Field(
            alias="migrationURLSecretKeyRef",
            description="The DSN that makes and changes the schema, of a role that may; left out: the workers' own.",
        ),
    ] = None
    replica_url_secret_key_ref: Annotated[
        SecretKeyRef | None,
        Field(
            alias="replicaURLSecretKeyRef",
            description="The DSN of a replica of the same Postgres, which answers queries of the read model while it is at most"
            " 5 s behind; else, and left out, the primary does. It needs the workers' role.",
        ),
    ] = None
    cluster_id: Annotated[
        str | None,
        Field(
            alias="clusterID",
            min_length=1,
            max_length=127,
            pattern=r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$",
            description="The name under which the database is claimed at its first migration; another name is refused from"
            " then on. Left out: <namespace>.<name>. The claim also holds the uids of this ThreadCluster and of the Kubernetes"
            " cluster, so that the name alone opens no database.",
        ),
    ] = None
    take_over: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=63,
            pattern=r"^[-A-Za-z0-9]+$",
            description="The uid of the cluster that holds the database and is to be displaced, as the message of"
            " DatabaseClaimedByOther names it. Its workers are fenced and serve no more. It has no effect on a database that"
            " another cluster than that holds, so it may stay.",
        ),
    ] = None
    tls: Annotated[TLSSpec, Field()] = TLSSpec()
    max_connections_per_worker: Annotated[
        int,
        Field(
            ge=7,
            le=64,
            description="Connections that a worker opens at most to the primary, all purposes together. Postgres'"
            " max_connections must bear this times the replicas, and a few more while a release changes. Of those that are left"
            " beside the worker's own, half are for queries of the read model; as many are opened to the replica.",
        ),
    ] = 12
