#!/bin/sh
# Brings one snapshot back with stock git: sh restore.sh REPO_DIRECTORY NUMBER NEW_DIRECTORY (see README.txt).
set -eu
fail() { printf 'restore.sh: %s\n' "$*" >&2; exit 1; }
text() { case $1 in b:*) printf %s "${1#b:}" | base64 -d ;; *) printf %s "${1#t:}" ;; esac; }
[ $# = 3 ] && number=$(expr "$2" + 0) || fail "usage: sh restore.sh REPO_DIRECTORY NUMBER NEW_DIRECTORY"
repo=$1 new=$3 last=$(printf %010d "$number").json; [ ! -e "$new" ] || fail "$new exists already; name a new directory"
export LC_ALL=C GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_DEFAULT_REF_FORMAT=files GIT_DIR="$new"
# 1. From the manifests: the parts in their order, and every ref. "t:" stands before text, "b:" before base64.
found=$({ cd "$repo/snapshots" && ls | awk -v last="$last" '/^[0-9]+\.json$/ && $0 <= last' | xargs cat
  ls ../bundles 2>/dev/null | sort -t - -k 1,2 -k 3,3r -k 4.18r | sed 's/^/part /'; } | awk -F '"' -v wanted="$number" '
  /^"format":/ && $3 != ":1," { newer = 1 }
  /^"number":/ { n = substr($3, 2) + 0; if (n == seen + 1) seen = n }
  /^"object_format":/ { format = $4 }
  /^"epoch":/ { e = substr($3, 2) + 0; if (e != epoch) { epoch = e; at = n - 1; need = 0 } }
  /^"bundle":[{]/ { need = n; part = $6; sub(/.*\//, "", part); sum[part] = $12 }
  /^[{]"name":.*"kind":/ { gsub(/\\"/, "\001"); split("", is)
    for (i = 2; $i != "kind"; i += 2) if ($(i + 1) == ":") { is[$i] = $(i + 2); i += 2 }
    name = is["name_b64"] ? "b:" is["name_b64"] : "t:" is["name"]
    ref[name] = is["new_b64"] ? "b:" is["new_b64"] : "t:" is["new"] }
  /^part / { part = substr($0, 6); split(part, of, "-")  # a merged part counts once it has its .idx
    if ((sub(/idx$/, "bundle", part) || part in sum) && at < need && of[1] + 0 == epoch && of[2] + 0 <= at + 1 &&
      of[3] + 0 > at) { at = of[3] + 0; list = list "part " part " " sum[part] "\n" } }
  END { if (newer) print "error a manifest has a newer format, which this script does not know"
    else if (seen != wanted) printf "error snapshots/%010d.json is missing\n", seen + 1
    else if (at < need) printf "error no bundles/%04d-FIRST-LAST-*.bundle holds snapshot %d\n", epoch, at + 1
    else printf "format %s\n%s", format, list
    for (r in ref) if (ref[r] != "t:") { plain = r ~ /^t:refs/ && ref[r] ~ /^t:[0-9a-f]+$/
      s = plain ? "ref " substr(ref[r], 3) " " substr(r, 3) : "odd " r " " ref[r]; gsub("\001", "\"", s); print s } }')
get() { printf '%s\n' "$found" | sed -n "s/^$1 //p"; } && [ -z "$(get error)" ] || fail "$(get error)"
# 2. The objects: what stands in a bundle behind its header, which ends in an empty line, is a pack.
git init -q --bare --object-format="$(get format)" && trap '[ "${whole-}" ] || rm -rf "$new"' EXIT
get part | while read -r part sum; do file=$repo/bundles/$part
  [ "$sum" ] || sum=$(sed 's/.*"bytes":[0-9]*,"sha256":"\([0-9a-f]*\)".*/\1/;1q' "${file%bundle}idx")
  ! type sha256sum >/dev/null || [ "$(sha256sum <"$file")" = "$sum  -" ] || fail "$part is not whole: expected sha256 $sum"
  skip=$(awk '{ n += length($0) + 1 } /^$/ { print n; exit }' "$file")
  tail -c +$((skip + 1)) "$file" | git index-pack --stdin --fix-thin >/dev/null || fail "git takes no pack from $part"
done
# 3. The refs, and the proof that every object they reach is there.
get ref >"$new/packed-refs" && echo "ref: refs/heads/main" >"$new/HEAD"
get odd | while read -r name value; do name=$(text "$name"); value=$(text "$value"); case $name,$value in
  *,ref:*) git symbolic-ref "$name" "${value#ref: }" ;; HEAD,*) echo "$value" >"$new/HEAD" ;;
  *) printf '%s %s\n' "$value" "$name" >>"$new/packed-refs" ;; esac; done
{ cut -d ' ' -f 1 "$new/packed-refs"; sed '/^ref: /d' "$new/HEAD"; } | git rev-list --objects --quiet --stdin || fail "objects are missing"
whole=yes && echo "snapshot $number is in $new"
