-- deliver.sql: keep a delivery and its claims and renew the wish, in one statement; no row when the hook is gone.
-- $1 hook, $2 now, $3 the forge's repository id or null, $4 deliveries allowed a minute, $5 the forge's delivery id, $6 kind,
-- $7 why nothing comes of it (null: a sync is wished for), $8 the body's beginning, $9 bytes of the body, then an array for each column of the claims, $15 of how many deliveries a minute the body is kept,
-- $16 how many bytes of bodies are kept of all hooks of a team.
with held as (
  select coalesce(sum(other.kept_bytes), 0) + octet_length($8::bytea) <= $16::bigint as has_room
  from hook mine join repo on repo.id = mine.repo_id
  join repo sibling on sibling.team_id = repo.team_id join hook other on other.repo_id = sibling.id
  where mine.id = $1
), hit as (
  update hook set
    repository_id = coalesce(repository_id, $3::text),
    delivered_at = case when $3::text is null or coalesce(repository_id, $3::text) = $3::text then $2 else delivered_at end,
    minute_at = case when minute_at between $2::timestamptz - interval '1 minute' and $2 + interval '1 minute' then minute_at else $2 end,
    minute_count = case when minute_at between $2 - interval '1 minute' and $2 + interval '1 minute' then minute_count + 1 else 1 end,
    kept_bytes = kept_bytes + case when held.has_room and $15::int >
      case when minute_at between $2 - interval '1 minute' and $2 + interval '1 minute' then minute_count else 0 end
      then octet_length($8) else 0 end
  from held where id = $1
  returning repo_id, minute_count, has_room, minute_count <= $4::int as within, $3::text is null or repository_id = $3::text as ours
), arrived as (
  insert into delivery (hook_id, delivery, received_at, kind, why, body, bytes)
  select $1, $5::text, $2, $6::text, case when ours then $7::text else 'it is about another repository' end,
    case when has_room and minute_count <= $15 then $8 else ''::bytea end, $9::bigint
  from hit where within
  on conflict (hook_id, delivery) do nothing
  returning id
), claimed as (
  insert into claim (delivery_id, position, name, before, after, pushed_by, pushed_at)
  select arrived.id, position, name, before, after, pushed_by, pushed_at
  from hit, arrived, unnest($10::bytea[], $11::bytea[], $12::bytea[], $13::text[], $14::timestamptz[])
    with ordinality as given (name, before, after, pushed_by, pushed_at, position)
  where hit.ours
), wished as (
  update repo set
    wanted_at = greatest($2, wanted_at + interval '1 microsecond'),
    behind_since = coalesce(behind_since, $2)
  from hit
  where repo.id = hit.repo_id and hit.ours and $7::text is null and (not hit.within or exists (select from arrived))
  returning repo.id
)
select repo_id, within, ours, exists (select from arrived) as fresh, exists (select from wished) as wished from hit
