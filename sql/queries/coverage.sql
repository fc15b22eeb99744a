-- coverage.sql($1 team_id or null: all, $2 now): how much of the live parts was read back within the period of its team, and of
-- how many repos the manifests and notes were. A team that wants nothing to be read again counts with 30 days.
with period as (
  select repo.id, repo.created_at, repo.records_read_at, $2::timestamptz - coalesce(nullif(read_days, 0), 30) * interval '1 day' as since
  from repo join team on team.id = repo.team_id
  where $1::uuid is null or team_id = $1
), stored as (
  select bytes + index_bytes as size, since, damaged_at,
    verified_at, read_at, coalesce(verified_at, read_at, created_at) as known_at
  from part join period on period.id = part.repo_id
  where replaced_at is null
), kept as (
  select since, coalesce(records_read_at, created_at) as known_at
  from period where exists (select from snapshot where repo_id = period.id)
)
select
  coalesce((select max(read_days) from team where $1::uuid is null or id = $1), 0) as days,
  coalesce((select sum(size) from stored), 0)::bigint as total,
  coalesce((select sum(size) from stored where verified_at >= since and damaged_at is null), 0)::bigint as read,
  coalesce((select sum(size) from stored where verified_at is null and read_at >= since and damaged_at is null), 0)::bigint as fresh,
  least((select min(known_at) from stored), (select min(known_at) from kept)) as oldest_at,
  (select count(*) from kept) as repos,
  (select count(*) from kept where known_at >= since) as repos_read,
  (select count(*) from stored where damaged_at is not null) as damaged
