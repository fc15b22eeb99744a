-- found_commits.sql($1 team_id, $2 the beginning of an id, $3 what comes after all ids that begin so, $4 how many): objects that a ref of
-- the team's repos ever pointed at, each once a repo: where a ref points now comes first, then the latest.
with hits as (
  (
    select stay.target as oid, ref.repo_id, ref.name, stay.first_snapshot as snapshot, null::int as moment, stay.last_snapshot is null as now
    from ref_stay stay join ref on ref.id = stay.ref_id join repo on repo.id = ref.repo_id
    where substring(stay.target from 1 for 64) >= $2 and substring(stay.target from 1 for 64) < $3 and repo.team_id = $1
    order by stay.last_snapshot is not null, stay.first_snapshot desc
    limit 1000
  )
  union all
  (
    select move.new, move.repo_id, ref.name, move.snapshot, move.moment, false
    from ref_change move join ref on ref.id = move.ref_id join repo on repo.id = move.repo_id
    where substring(move.new from 1 for 64) >= $2 and substring(move.new from 1 for 64) < $3 and move.new is not null and repo.team_id = $1
    order by move.snapshot desc
    limit 1000
  )
), each_once as (
  select distinct on (repo_id, oid) hits.* from hits order by repo_id, oid, now desc, snapshot desc, moment nulls first
)
select each_once.*, repo.name as repo from each_once join repo on repo.id = repo_id
order by now desc, repo.name, oid
limit $4
