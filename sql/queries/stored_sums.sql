-- stored_sums.sql($1 keys, $2 indexes, $3 the part of each, $4 manifests, $5 the repo of each, $6 its number, $7 is it sealed): what
-- these objects are as they are stored, as it was recorded; bytes are null where only the sum was.
select key, coalesce(sealed_bytes, bytes) as bytes, coalesce(sealed_sha256, sha256) as sha256
from part where key = any($1::text[]) and deleted_at is null
union all
select idx, coalesce(sealed_index_bytes, index_bytes), coalesce(sealed_index_sha256, index_sha256)
from unnest($2::text[], $3::text[]) as beside (idx, of) join part on part.key = beside.of
where index_bytes > 0 and deleted_at is null
union all
select stored.key, sealed_bytes, coalesce(sealed_sha256, sha256)
from note, lateral (select case when sealed_sha256 is null then note.key else note.key || '.age' end as key) as stored
where note.key = any(select regexp_replace(asked, '[.]age$', '') from unnest($1::text[]) as asked)
  and stored.key = any($1::text[])
union all
select key, null, sha256 from evidence where key = any($1::text[])
union all
select key, null, sha256 from daily_evidence where key = any($1::text[])
union all
select asked.key, sealed_manifest_bytes, coalesce(sealed_manifest_sha256, manifest_sha256)
from unnest($4::text[], $5::uuid[], $6::int[], $7::boolean[]) as asked (key, id, of, sealed)
join snapshot on repo_id = asked.id and number = asked.of and (sealed_manifest_sha256 is not null) = asked.sealed
