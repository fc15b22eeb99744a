-- 160_sealed.sql: what is in the vault where an object is sealed: an age file. Sizes and sums elsewhere are those of
-- what is in it, so that sealing it again, to other keys, changes nothing of the history.

alter table part add column sealed_bytes bigint check (sealed_bytes > 0);  -- of the bundle; null: it is stored as it is
alter table part add column sealed_sha256 text;
alter table part add column sealed_index_bytes bigint check (sealed_index_bytes > 0);  -- likewise of its .idx
alter table part add column sealed_index_sha256 text;
alter table part add check ((sealed_bytes is null) = (sealed_sha256 is null));
alter table part add check ((sealed_index_bytes is null) = (sealed_index_sha256 is null));

alter table snapshot add column sealed_manifest_bytes bigint check (sealed_manifest_bytes > 0);  -- null: likewise
alter table snapshot add column sealed_manifest_sha256 text;
alter table snapshot add check ((sealed_manifest_bytes is null) = (sealed_manifest_sha256 is null));

alter table note add column sealed_bytes bigint check (sealed_bytes > 0);  -- null: it is stored as it is, or waits
alter table note add column sealed_sha256 text;
alter table note add check ((sealed_bytes is null) = (sealed_sha256 is null));
