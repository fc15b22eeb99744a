-- add_snapshot.sql($1 repo_id, the columns of the snapshot, $17 the key of its part or null, the columns of that): a
-- snapshot, with the part that it was born with, which becomes live, and the intent to upload that, which is taken back.
with born as (
  insert into part (
    key, repo_id, epoch, first_snapshot, last_snapshot, bytes, sha256, header_bytes, entries,
    cuttable, complete, index_bytes, index_sha256,
    sealed_bytes, sealed_sha256, sealed_index_bytes, sealed_index_sha256, read_at
  )
  select $17, $1, $10, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $3
  where $17::text is not null
), intended as (
  delete from intent where repo_id = $1 and key = $17
)
insert into snapshot (
  repo_id, number, taken_at, reason, object_format, head, refs_count, refs_digest, changes_count,
  epoch, log_entries, log_bytes, segment_entries, segment_bytes, segment_sha256, manifest_sha256, bundle_key,
  previous_sha256, sealed_manifest_bytes, sealed_manifest_sha256
) values ($1, $2, $3, $4, $5, $6::bytea, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $32, $33, $34)
