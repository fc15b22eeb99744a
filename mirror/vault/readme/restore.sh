#!/bin/sh
# Brings one snapshot back with stock git: sh restore.sh REPO_DIRECTORY NEW_DIRECTORY [NUMBER] (see README.txt).
# Where objects are sealed (.age): AGE_IDENTITY=FILE sh restore.sh ..., with an age identity or an ssh key, and age.
set -eu
fail() { printf 'restore.sh: %s\n' "$*" >&2; exit 1; }
text() { case $1 in b:*) printf %s "${1#b:}" | base64 -d ;; *) printf %s "${1#t:}" ;; esac; }
unseal() { case $1 in *.age) printf '%s\n' "$own" | age -d -i "${AGE_IDENTITY-}" ${own:+-i -} "$1" ;; *) cat "$1" ;; esac; }
usage="usage: sh restore.sh REPO_DIRECTORY NEW_DIRECTORY [NUMBER], without a NUMBER the latest"
[ $# = 2 ] || [ $# = 3 ] || fail "$usage"; repo=$1 new=$2
[ -d "$repo/snapshots" ] || fail "$repo has no snapshots; $usage"
number=${3-$(ls "$repo/snapshots" | sed -n 's/^0*\([1-9][0-9]*\)[.]json.*/\1/p' | sort -n | tail -n 1)}
case $#$new in 2* | *[!0-9]*) ;; *) new=$3 number=$2 ;; esac  # the older order: REPO_DIRECTORY NUMBER NEW_DIRECTORY
case $number in "" | *[!0-9]*) fail "$usage" ;; esac; number=$(expr "$number" + 0) && [ -n "$new" ] || fail "$usage"
last=$(printf %010d "$number").json; [ ! -e "$new" ] || fail "$new exists already; name a new directory"
export LC_ALL=C GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_DEFAULT_REF_FORMAT=files GIT_DIR="$new"
# 1. From the manifests: the parts in their order, and every ref. "t:" stands before text, "b:" before base64.
case ${AGE_IDENTITY-} in "" | /*) ;; *) AGE_IDENTITY=$PWD/$AGE_IDENTITY ;; esac
# A key of a person also opens a file of the team's own keys, which open what was sealed before it was added.
own=$([ ! "${AGE_IDENTITY-}" ] || for file in "$repo"/../keys/*/*.age; do age -d -i "$AGE_IDENTITY" "$file" 2>/dev/null || :
  done | sed -n '/^AGE-SECRET-KEY-1[0-9A-Z]*$/p' | sort -u)
found=$({ cd "$repo/snapshots" && ls | awk -v last="$last.age" '/^[0-9]+\.json(\.age)?$/ && $0 <= last {
  n = substr($0, 1, 10); if (n == at) line = $0; else if (line) print line; at = n; line = $0 } END { if (line) print line }' |
  while read -r file; do unseal "$file" || printf '\nclosed %s\n' "$file"; done
  ls ../bundles 2>/dev/null | sort -t - -k 1,2 -k 3,3r -k 4.18r | sed 's/^/part /'; } | awk -F '"' -v wanted="$number" '
  /^closed / && !closed { closed = substr($0, 8) }
  /^"format":/ && $3 != ":1," { newer = 1 }
  /^"number":/ { n = substr($3, 2) + 0; if (n == seen + 1) seen = n }
  /^"object_format":/ { format = $4 } /^"epoch":/ { epoch = substr($3, 2) + 0 }
  /^"bundle":[{]/ { need = n; part = $6; sub(/.*\//, "", part); sub(/[.]age$/, "", part); sum[part] = $12 }
  /^[{]"name":.*"kind":/ { gsub(/\\"/, "\001"); split("", is)
    for (i = 2; $i != "kind"; i += 2) if ($(i + 1) == ":") { is[$i] = $(i + 2); i += 2 }
    name = is["name_b64"] ? "b:" is["name_b64"] : "t:" is["name"]
    ref[name] = is["new_b64"] ? "b:" is["new_b64"] : "t:" is["new"] }
# A merged part counts once it has its .idx, unless a .withdrawn, which is listed before it, says otherwise.
  /^part / { part = substr($0, 6); split(part, of, "-"); age = sub(/[.]age$/, "", part) ? ".age" : ""
    if (sub(/withdrawn$/, "idx", part)) { gone[part] = 1; next } if (part in gone) next
    if (part ~ /idx$/ && of[1] + 0 > epoch && of[2] + 0 == 1 && of[3] + 0 >= wanted) { epoch = of[1] + 0; at = 0; list = "" }
    if ((sub(/idx$/, "bundle", part) || part in sum) && at < need && of[1] + 0 == epoch && of[2] + 0 <= at + 1 &&
      of[3] + 0 > at) { at = of[3] + 0; list = list "part " part age " " sum[part] "\n" } }
  END { if (closed) print "error " closed " is sealed: install age, and set AGE_IDENTITY to a file with a key that opens it"
    else if (newer) print "error a manifest has a newer format, which this script does not know"
    else if (seen != wanted) printf "error snapshots/%010d.json is missing\n", seen + 1
    else if (at < need) printf "error no bundles/%04d-FIRST-LAST-*.bundle holds snapshot %d\n", epoch, at + 1
    else printf "format %s\n%s", format, list
    for (r in ref) if (ref[r] != "t:") { plain = r ~ /^t:refs/ && ref[r] ~ /^t:[0-9a-f]+$/
      s = plain ? "ref " substr(ref[r], 3) " " substr(r, 3) : "odd " r " " ref[r]; gsub("\001", "\"", s); print s } }')
get() { printf '%s\n' "$found" | sed -n "s/^$1 //p"; } && [ -z "$(get error)" ] || fail "$(get error)"
# 2. The objects: what stands in a bundle behind its header, which ends in an empty line, is a pack.
git init -q --bare --object-format="$(get format)" && trap '[ "${whole-}" ] || rm -rf "$new"' EXIT
get part | while read -r part sum; do file=$repo/bundles/$part
  case $part in *.age) sealed=.age && unseal "$file" >"$new/part" || fail "$part is not whole, or sealed to other keys" ;;
    *) sealed= ;; esac
  [ "$sum" ] || sum=$(unseal "${file%bundle*}idx$sealed" 2>/dev/null |
    sed 's/^{"format":1,"bytes":[0-9]*,"sha256":"\([0-9a-f]*\)".*/\1/;1q')
  [ ! "$sealed" ] || file=$new/part
  ! type sha256sum >/dev/null || [ "$(sha256sum <"$file")" = "$sum  -" ] || fail "$part is not whole: expected sha256 $sum"
  skip=$(awk '{ n += length($0) + 1 } /^$/ { print n; exit }' "$file")
  tail -c +$((skip + 1)) "$file" | git index-pack --stdin --fix-thin >/dev/null || fail "git takes no pack from $part"
  rm -f "$new/part"; done
# 3. The refs, and the proof that every object they reach is there.
get ref >"$new/packed-refs" && echo "ref: refs/heads/main" >"$new/HEAD"
get odd | while read -r name value; do name=$(text "$name"); value=$(text "$value"); case $name,$value in
  *,ref:*) git symbolic-ref "$name" "${value#ref: }" ;; HEAD,*) echo "$value" >"$new/HEAD" ;;
  *) printf '%s %s\n' "$value" "$name" >>"$new/packed-refs" ;; esac; done
{ cut -d ' ' -f 1 "$new/packed-refs"; sed '/^ref: /d' "$new/HEAD"; } | git rev-list --objects --quiet --stdin || fail "$(
  for file in "$repo"/retention/*; do unseal "$file" 2>/dev/null || :; done | awk -F '"' -v n="$number" '{ gsub(/\\"/, "\047") }
  /^[{]"first":/ && substr($3, 2) + 0 <= n && n <= substr($5, 2) + 0 { why = "snapshot " n " was dropped on " $8 ": " $12 }
  END { print why ? why : "objects are missing" }')"; whole=yes && echo "snapshot $number is in $new"
