-- ping_facts.sql($1 team_id or null for all teams, $2 now, $3 names, $4 how long a silent worker counts as alive, $5 after which an
-- outage that nobody looks at is forgotten): what a dead man's switch goes by.
-- Damage counts in archived and paused repos, too: what is stored of them may be all that there is.
-- Where nothing was drilled yet, the first snapshot counts in its place. `read_at`: every stored byte was read since then.
with kept as (
  select id, name, is_outside_rpo(repo, $2) as outside from repo where ($1::uuid is null or team_id = $1) and archived_at is null and paused_at is null
), damaged as (
  select id, name from repo where ($1::uuid is null or team_id = $1) and damaged_at is not null
), outside as (
  select name from kept where outside and id not in (select id from damaged)
), first as (
  select min(taken_at) as at from kept cross join lateral (
    select taken_at from snapshot where snapshot.repo_id = kept.id order by number limit 1
  ) began
)
select
  (select count(*) from kept) as repos,
  (select count(*) from outside) as outside,
  coalesce((select (array_agg(name order by name))[1:$3] from outside), '{}') as names,
  (select count(*) from damaged) as damaged,
  coalesce((select (array_agg(name order by name))[1:$3] from damaged), '{}') as damaged_names,
  exists (select from worker where beat_at > clock_timestamp() - $4::interval) as workers,
  not exists (
    select from outage where origin = 'vault' and ended_at is null and asked_at > clock_timestamp() - $5::interval
  ) as vault,
  coalesce((
    select max(finished_at) from drill join kept on kept.id = drill.repo_id where problems = '{}'
  ), first.at) as drilled_at,
  (
    select min(coalesce(part.read_at, first.at)) from part join kept on kept.id = part.repo_id where part.replaced_at is null
  ) as read_at,
  case when $1::uuid is null then coalesce((select unknown_repos from vault_identity), 0) else 0 end as unknown
from first
