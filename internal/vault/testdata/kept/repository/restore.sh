#!/bin/sh
# Restores a snapshot of this Holdfast repository without Holdfast.
# usage, in the directory of the repository:  sh restore.sh SECRET.asc OUTDIR [SNAPSHOT]
# needs: gpg, age, zstd, tar (GNU tar restores extended attributes too), and about the size
# of the data again as free space in OUTDIR's file system.
set -eu
[ $# -ge 2 ] || { sed -n 2,5p "$0"; exit 2; }
die() { echo "restore.sh: $*" >&2; exit 1; }
for tool in gpg age zstd tar sha256sum xargs; do command -v $tool >/dev/null || die "needs $tool"; done
[ -f config.json ] || die "run it inside the repository"
mkdir -p "$2"
key=$1; out=$(cd "$2" && pwd); tmp=$(mktemp -d "$out/.restore.XXXXXX"); repo=$(pwd)
trap 'GNUPGHOME="$tmp/g" gpgconf --kill gpg-agent 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

# 1. The snapshot: the newest one, or the one whose ID begins as asked.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$2"; }
for s in snapshots/${3:-}*.json; do [ -f "$s" ] && echo "$(field time "$s") $s"; done | sort > "$tmp/snapshots"
[ -s "$tmp/snapshots" ] || die "no such snapshot"
snapshot=$(tail -n 1 "$tmp/snapshots" | cut -d' ' -f2)
[ "$(sha256sum < "$snapshot" | cut -c1-64)" = "$(basename "$snapshot" .json)" ] || die "$snapshot is damaged"
echo "restoring $snapshot of $(field time "$snapshot")"

# 2. The secret key opens the envelopes; each holds the age identity of an epoch.
mkdir -m 700 "$tmp/g"
GNUPGHOME="$tmp/g" gpg --batch --quiet --import "$key" 2>"$tmp/err" || die "cannot import $key: $(cat "$tmp/err")"
for epoch in $(sed 's/.*"epochs":\[\([^]]*\)\].*/\1/; s/[",]/ /g' "$snapshot"); do
    for envelope in epochs/"$epoch".*.asc; do
        GNUPGHOME="$tmp/g" gpg ${PASSPHRASE_FILE:+--batch --pinentry-mode loopback --passphrase-file "$PASSPHRASE_FILE"} \
            --quiet --decrypt "$envelope" > "$tmp/one" 2>"$tmp/err" && cat "$tmp/one" >> "$tmp/identities" && continue 2
    done
    die "wrong key for epoch $epoch: $(cat "$tmp/err")"
done

# 3. The manifest: headers of a tar archive, and the list of pieces that lie between them.
manifest=$(field manifest "$snapshot")
[ "$(sha256sum < "$manifest" | cut -c1-64)" = "$(basename "$manifest")" ] || die "$manifest is damaged"
age -d -i "$tmp/identities" "$manifest" | zstd -qdc | tar -x -C "$tmp" -f - || die "$manifest is damaged"

# 4. The packs: each a tar archive of pieces.
number=0
while read -r name epoch mac; do
    number=$((number + 1)); mkdir "$tmp/$number"
    [ "$(sha256sum < "packs/$name" | cut -c1-64)" = "$name" ] || die "packs/$name is damaged or missing"
    age -d -i "$tmp/identities" "packs/$name" | zstd -qdc | tar -x -C "$tmp/$number" -f - || die "packs/$name is damaged"
done < "$tmp/packs"

# 5. The pieces, one after the other, are the archive.
cd "$tmp"
case $(tar --version 2>/dev/null) in *GNU*) how="--xattrs --xattrs-include=* --numeric-owner --delay-directory-restore" ;; *) how= ;; esac
set -f
xargs cat < list | tar -xp $how -C "$out" -f -
echo "restored to $out"
