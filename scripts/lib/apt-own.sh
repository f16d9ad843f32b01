# shellcheck shell=bash
# apt with a state of its own: resolves, verifies and downloads packages of Debian as always, and unpacks
# them into a folder. Nothing on the system changes, nothing is installed, no maintainer script runs. It
# works on Debian and its derivatives.
#
# Sourced by the scripts that provide what tests run. They set `program`, the name in messages, before.
#
#   apt_own_target                        sets `repository` and `target`
#   apt_own_open HOME SUITE...            makes apt's own state below HOME, with these suites of Debian
#   apt_own TOOL ARGUMENT...              runs apt-get or apt-cache with it
#   apt_own_unpack FOLDER PACKAGE...      FOLDER/root: the packages and all that they depend on, unpacked;
#                                         FOLDER/packages: the names of their archives, one a line
#   apt_own_wrapper FOLDER PROGRAM FILE   FILE runs PROGRAM (a path below FOLDER/root) with the loader and the
#                                         libraries unpacked there
#
# apt believes that nothing is installed, so every library is downloaded, libc included, and the machine's
# own libraries do not matter.
#
# The archive is verified by Debian's keyring: the system's (package debian-archive-keyring), or, where
# it is not installed, the one in the package of that name, which the system's own apt downloads and
# verifies by its own keys (Ubuntu has it in universe) and which is only unpacked, never installed.
#
# Environment:
#   REGROW_DEBIAN_MIRROR   the Debian archive to use; default: the one in the machine's apt sources if
#                          it is a Debian machine, else the default of the package debootstrap. It may
#                          be a folder of Debian's snapshot archive, when a suite has moved on from
#                          a version.
#   CARGO_TARGET_DIR       where target/ is, if not in the repository

readonly SYSTEM_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

log() { printf '%s: %s\n' "${program:?}" "$*" >&2; }
die() { log "$*"; exit 1; }

apt_own_target() {
    repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    target=${CARGO_TARGET_DIR:-$repository/target}
    case $target in /*) ;; *) target=$repository/$target ;; esac
    readonly repository target
}

# The Debian archive that this machine is configured to use: deb822 `URIs:` and one-line `deb` entries.
configured_mirror() {
    local distribution=
    if [[ -r /etc/os-release ]]; then
        distribution=$(sed -n 's/^ID=//p' /etc/os-release | tr -d '"')
    fi
    if [[ $distribution == debian ]]; then
        local files=()
        shopt -s nullglob
        files=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)
        shopt -u nullglob
        local file
        for file in "${files[@]}"; do
            [[ -r $file ]] || continue
            # A URI whose last part is `debian`: not debian-security, not a third party's archive.
            local uri
            uri=$(sed -nE \
                -e 's/^[[:space:]]*#.*//' \
                -e 's/^[[:space:]]*URIs:(.*)$/\1/p' \
                -e 's/^[[:space:]]*deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*$/\2/p' "$file" |
                tr -s '[:space:]' '\n' | grep -E '/debian/?$' | head -n 1 || true)
            if [[ -n $uri ]]; then
                printf '%s\n' "${uri%/}"
                return
            fi
        done
    fi
    default_mirror
}

# The archive that debootstrap uses for Debian's unstable suite: no Debian mirror is configured here.
default_mirror() {
    local folder=$apt_own_home/debootstrap
    local script=$folder/usr/share/debootstrap/scripts/sid
    if [[ ! -r $script ]]; then
        log "no Debian mirror is configured: asking the package debootstrap for its default"
        mkdir -p "$folder"
        (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download debootstrap) >&2 ||
            die "cannot download debootstrap: run apt-get update, or set REGROW_DEBIAN_MIRROR"
        dpkg-deb -x "$folder"/debootstrap_*.deb "$folder"
    fi
    local mirror
    mirror=$(sed -nE 's/^[[:space:]]*default_mirror[[:space:]]+(.*)$/\1/p' "$script" | head -n 1)
    [[ -n $mirror ]] || die "no Debian mirror is known: set REGROW_DEBIAN_MIRROR"
    printf '%s\n' "${mirror%/}"
}

# Debian's keyring, see above.
keyring() {
    if [[ -r $SYSTEM_KEYRING ]]; then
        printf '%s\n' "$SYSTEM_KEYRING"
        return
    fi
    local folder=$apt_own_home/keyring
    if [[ ! -r $folder$SYSTEM_KEYRING ]]; then
        log "no $SYSTEM_KEYRING: downloading the package debian-archive-keyring by the system's apt"
        mkdir -p "$folder"
        (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download debian-archive-keyring) >&2 ||
            die "cannot download debian-archive-keyring: run apt-get update, or install it"
        dpkg-deb -x "$folder"/debian-archive-keyring_*.deb "$folder"
    fi
    printf '%s\n' "$folder$SYSTEM_KEYRING"
}

# `-c` is read after the machine's configuration, so its proxies stay in force and these lines win.
apt_own() {
    local tool=$1
    shift
    "$tool" -c "$apt_own_home/apt.conf" "$@"
}

apt_own_open() {
    apt_own_home=$1
    shift
    local tool
    for tool in apt-get apt-cache dpkg-deb; do
        command -v "$tool" >/dev/null || die "needs $tool: this works on Debian and its derivatives"
    done
    local mirror=${REGROW_DEBIAN_MIRROR:-$(configured_mirror)}
    mirror=${mirror%/}
    local key
    key=$(keyring)
    log "archive $mirror, keyring $key"
    mkdir -p "$apt_own_home"/{state/lists/partial,cache/archives/partial,etc/empty}
    : >"$apt_own_home/state/status"
    cat >"$apt_own_home/apt.conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Dir::State "$apt_own_home/state";
Dir::State::lists "lists";
Dir::State::status "$apt_own_home/state/status";
Dir::State::extended_states "$apt_own_home/state/extended_states";
Dir::Cache "$apt_own_home/cache";
Dir::Cache::archives "archives";
Dir::Etc::sourcelist "$apt_own_home/etc/sources.list";
Dir::Etc::sourceparts "$apt_own_home/etc/empty";
Dir::Etc::preferences "$apt_own_home/etc/preferences";
Dir::Etc::preferencesparts "$apt_own_home/etc/empty";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Default-Release "";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
    : >"$apt_own_home/etc/preferences"
    : >"$apt_own_home/etc/sources.list"
    local suite
    for suite in "$@"; do
        printf 'deb [target=Packages signed-by=%s] %s %s main\n' "$key" "$mirror" "$suite" \
            >>"$apt_own_home/etc/sources.list"
    done
    apt_own apt-get -qq update >&2
}

apt_own_unpack() {
    local folder=$1
    shift
    # An archives folder of its own: everything in it belongs to these packages.
    local archives=$folder/archives
    mkdir -p "$folder/root" "$archives/partial"
    apt_own apt-get -qq -o Dir::Cache::archives="$archives" --no-install-recommends --download-only --yes \
        install "$@" >&2
    local archive
    for archive in "$archives"/*.deb; do
        dpkg-deb -x "$archive" "$folder/root"
        printf '%s\n' "${archive##*/}" >>"$folder/packages"
    done
    rm -r "$archives"
}

# The loader is given by hand because the program names the system's. The folder may be moved with the file.
apt_own_wrapper() {
    local folder=$1 path=$2 file=$3
    local loader
    loader=$(find "$folder/root" -name 'ld-linux*.so.*' | sort | head -n 1)
    [[ -n $loader ]] || die "no dynamic loader among the packages"
    [[ -f $folder/root/$path ]] || die "no $path among the packages"
    local libraries
    libraries=$(find "$folder/root" -name '*.so.*' -printf '%h\n' | sort -u | grep -vE "/(etc|gconv|gnutls|pkcs11|xtables)" |
        sed "s|^$folder|\$here|" | paste -sd:)
    local up
    up=$(realpath --relative-to="$(dirname "$file")" "$folder")
    [[ $up != . ]] || up=
    cat >"$file" <<WRAPPER
#!/bin/sh
# Written by scripts/$program: runs a program with the loader and the libraries that came with it.
# Called by its whole path it starts no other process, which would take longer than all else that it does.
here=
case \$0 in
/*) [ -L "\$0" ] || here=\${0%/*}${up:+/$up} ;;
esac
[ -n "\$here" ] || here=\$(readlink -f "\$(dirname "\$(readlink -f "\$0")")/$up")
exec "\$here${loader#"$folder"}" --library-path "$libraries" "\$here/root/$path" "\$@"
WRAPPER
    chmod 755 "$file"
}
