"""As whom pods run, as Kubernetes' own PodSecurityContext has it for Linux, closed."""

from typing import Annotated, Literal

from pydantic import Field

from threadcluster_operator.api.fields import ATOMIC, SpecModel, ValidationRule

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
Word = Annotated[str, Field(max_length=253)]


class ProfileSpec(SpecModel):
    """A profile that confines the pods' processes."""

    rules = (
        ValidationRule(
            "(self.type == 'Localhost') == has(self.localhostProfile)",
            "localhostProfile is for type Localhost, which needs one",
            ("localhostProfile",),
            lambda profile: (profile.type == "Localhost") == (profile.localhost_profile is not None),
        ),
    )

    type: Annotated[
        Literal["RuntimeDefault", "Localhost", "Unconfined"],
        Field(description="The container runtime's own profile, one of the node's, or none."),
    ]
    localhost_profile: Annotated[
        str | None, Field(min_length=1, max_length=253, description="The profile's name on the node.")
    ] = None


class SELinuxOptions(SpecModel):
    """The SELinux label of the pods' processes."""

    level: Annotated[Word | None, Field(description="Its level.")] = None
    role: Annotated[Word | None, Field(description="Its role.")] = None
    type: Annotated[Word | None, Field(description="Its type.")] = None
    user: Annotated[Word | None, Field(description="Its user.")] = None


class Sysctl(SpecModel):
    """A kernel parameter of the pods' own namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253, description="The parameter's name.")]
    value: Annotated[str, Field(max_length=253, description="Its value.")]


class PodSecurityContext(SpecModel):
    """As whom pods run, and how they are confined."""

    run_as_user: Annotated[Number | None, Field(description="The processes' user.")] = None
    run_as_group: Annotated[Number | None, Field(description="The processes' group.")] = None
    run_as_non_root: Annotated[bool | None, Field(description="Whether a pod whose user is root is refused.")] = None
    fs_group: Annotated[Number | None, Field(description="The group of the volumes' files.")] = None
    fs_group_change_policy: Annotated[
        Literal["OnRootMismatch", "Always"] | None, Field(description="When the volumes' files are given that group.")
    ] = None
    supplemental_groups: Annotated[
        list[Number] | None, Field(max_length=32, description="Further groups.", json_schema_extra=ATOMIC)
    ] = None
    supplemental_groups_policy: Annotated[
        Literal["Merge", "Strict"] | None, Field(description="Whether the image's own groups count as well.")
    ] = None
    seccomp_profile: Annotated[ProfileSpec | None, Field(description="System calls that processes may make.")] = None
    app_armor_profile: Annotated[
        ProfileSpec | None, Field(description="Actions that AppArmor lets processes take.")
    ] = None
    se_linux_options: Annotated[SELinuxOptions | None, Field()] = None
    se_linux_change_policy: Annotated[
        Literal["MountOption", "Recursive"] | None, Field(description="How the volumes' files are given that label.")
    ] = None
    sysctls: Annotated[
        list[Sysctl] | None, Field(max_length=32, description="Kernel parameters.", json_schema_extra=ATOMIC)
    ] = None
