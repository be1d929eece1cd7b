-- Schema `pgconvoy` at the destination: what proves what is done. Version 10.

create schema pgconvoy;

-- Which layout this is. A younger one than an agent knows is refused.
create table pgconvoy.meta (
    only_row boolean primary key default true check (only_row),
    version integer not null
);
insert into pgconvoy.meta (version) values (10);

-- The tasks that write here. A task whose row is gone has ended: nobody may write for it any more (law O9).
create table pgconvoy.task (
    id text primary key,
    created_at timestamptz not null default pg_catalog.now(),
    -- The large objects that are here are those that it copied: they may be replaced.
    large_objects boolean not null default false
);

-- The youngest owner of each unit that runs statements of the schema, sets sequences, or the like.
create table pgconvoy.unit_owner (
    task text not null references pgconvoy.task on delete cascade,
    unit bigint not null,
    epoch bigint not null,
    primary key (task, unit)
);

-- Which plan of a table is current. Grows only; every writing transaction holds its row (law O1).
create table pgconvoy.table_state (
    task text not null references pgconvoy.task on delete cascade,
    table_no bigint not null,
    generation bigint not null,
    -- Where rows are written: the table, or the root of its partitions.
    write_schema text not null,
    write_table text not null,
    -- Where changes are followed: what is to be known of the source's table to apply them.
    followed jsonb,
    -- The least that its N is, because rows were read again; null = the largest position noted by its shards.
    read_again_at pg_lsn,
    -- Why its changes are kept instead of being applied; null = they are applied.
    parked jsonb,
    primary key (task, table_no)
);

-- How far the changes of the source are applied. Written in the transaction that applied them (law O3).
create table pgconvoy.apply_progress (
    task text primary key references pgconvoy.task on delete cascade,
    epoch bigint not null,
    -- Every transaction that ends at or before it is applied.
    lsn pg_lsn not null,
    -- Counts the applying transactions.
    seq bigint not null,
    -- The end of the last transaction of the source that carried a change.
    last_change pg_lsn,
    -- The last marker that was found in the source's log, and the end of its transaction.
    marker text,
    marker_lsn pg_lsn,
    -- Which of the task's cutovers wants to know what is changed, counted from 1; null = none does. And its how manieth look at
    -- that is the next. Whoever applies holds this row from before its first change on: so each look begins between two of its
    -- transactions.
    changes_for integer,
    look integer not null default 0
);

-- What was changed since a cutover began to compare both ends: tables, by the look that was the next then.
create table pgconvoy.changed_table (
    task text not null,
    table_no bigint not null,
    look integer not null,
    -- Of its keys one in 2 to the power of this is kept, by their hashes.
    level integer not null default 0,
    -- At most so many keys are kept.
    kept bigint not null default 0,
    -- Rows were changed that no key tells.
    untold boolean not null default false,
    primary key (task, table_no, look),
    foreign key (task, table_no) references pgconvoy.table_state on delete cascade
);

-- And their keys, as COPY's text has them, columns in the order of their names.
create table pgconvoy.changed_key (
    task text not null,
    table_no bigint not null,
    key text collate pg_catalog."C" not null,
    -- The last that it was changed before.
    look integer not null,
    -- It differed at a look, and was not seen to change since: that is not forgotten.
    differed boolean not null default false,
    primary key (task, table_no, key),
    foreign key (task, table_no) references pgconvoy.table_state on delete cascade
);

-- Rows that were read again, by their keys as the stream has them: which snapshot shows them (law S8).
create table pgconvoy.reread (
    task text not null,
    table_no bigint not null,
    key text[] not null,
    snapshot text not null,
    noted_lsn pg_lsn not null,
    foreign key (task, table_no) references pgconvoy.table_state on delete cascade
);
create index on pgconvoy.reread (task, table_no);
-- A publication for all tables that came with the schema covers this one, too, and what has no key could not be deleted then.
alter table pgconvoy.reread replica identity full;

-- Changes of tables that are parked, in order, as they came.
create table pgconvoy.parked_change (
    task text not null,
    table_no bigint not null,
    no bigint generated always as identity,
    commit_lsn pg_lsn not null,
    ordinal bigint not null,
    xid xid8 not null,
    message bytea not null,
    primary key (task, table_no, no),
    foreign key (task, table_no) references pgconvoy.table_state on delete cascade
);

-- Tables of the source that got `replica identity full` for as long as the task lasts: what is to be put back. A cutover ends
-- the task's row before that is done, so these do not go with it.
create table pgconvoy.identity_set (
    task text not null,
    schema_name text not null,
    table_name text not null,
    -- As `alter table … replica identity` has it.
    was text not null,
    primary key (task, schema_name, table_name)
);

-- Tasks whose cutover was decided: written in the transaction that ends the task's row, and read by whoever does that step again. So it
-- does not go with the row, but when all else of the task is removed.
create table pgconvoy.switched (
    task text primary key,
    at timestamptz not null default pg_catalog.now()
);

-- Tables that are copied anew while the others are followed: their changes are kept, beginning behind this position.
create table pgconvoy.copied_anew (
    task text not null,
    table_no bigint not null,
    held_from pg_lsn not null,
    -- The object id, at the source, of the table whose changes are kept; 0 = there was none of its name.
    relation bigint not null,
    primary key (task, table_no),
    foreign key (task, table_no) references pgconvoy.table_state on delete cascade
);

-- Which shards are done: written in the transaction that wrote their rows (law O2).
create table pgconvoy.shard_progress (
    task text not null,
    table_no bigint not null,
    generation bigint not null,
    shard bigint not null,
    epoch bigint not null,
    snapshot text not null,
    noted_lsn pg_lsn not null,
    rows bigint not null,
    bytes bigint not null,
    done_at timestamptz not null default pg_catalog.now(),
    -- The rows are in an unlogged table: there until this server crashes, as long as the shard's mark.
    unlogged boolean not null default false,
    primary key (task, table_no, generation, shard),
    foreign key (task, table_no) references pgconvoy.table_state on delete cascade
);

-- Marks of shards whose rows are in unlogged tables. A crash that empties those empties this one, too.
create unlogged table pgconvoy.unlogged_mark (
    task text not null,
    table_no bigint not null,
    generation bigint not null,
    shard bigint not null,
    primary key (task, table_no, generation, shard),
    foreign key (task, table_no, generation, shard) references pgconvoy.shard_progress on delete cascade
);

-- Which shards are done, and whose rows no crash has taken since.
create view pgconvoy.shard_done as
    select p.* from pgconvoy.shard_progress p
    where not p.unlogged or exists (
        select from pgconvoy.unlogged_mark m
        where (m.task, m.table_no, m.generation, m.shard) = (p.task, p.table_no, p.generation, p.shard));

-- The statements of the source's schema, in the archive's order.
create table pgconvoy.schema_entry (
    task text not null references pgconvoy.task on delete cascade,
    no bigint not null,
    -- When it runs: before the rows, when its table's rows are there, or after all rows; then what takes no time, what reads
    -- whole tables, and what would see the rest. At last, when no change is applied any more, what would fire for them.
    section text not null check (section in ('pre', 'index', 'post', 'scan', 'last', 'live')),
    kind text not null,
    schema_name text not null,
    object_name text not null,
    -- The table it belongs to, where it belongs to one.
    table_schema text,
    table_name text,
    statement text not null,
    -- Among those that read whole tables: what it needs is of lower waves.
    wave integer not null,
    -- The source's.
    search_path text not null,
    done boolean not null default false,
    primary key (task, no)
);
create index on pgconvoy.schema_entry (task, table_schema, table_name);

-- What sequences were set to, kept in the transaction that set them: the source's go on.
create table pgconvoy.sequence_set (
    task text not null references pgconvoy.task on delete cascade,
    schema_name text not null,
    sequence_name text not null,
    last_value bigint not null,
    is_called boolean not null,
    primary key (task, schema_name, sequence_name)
);

-- Large objects as the rows of a table, in pieces. What is written here becomes an object: its first piece makes it.
create view pgconvoy.large_object as
    select oid, null::bigint as piece_at, null::bytea as bytes, null::text as owner, null::text[] as grants, null::text as comment
    from pg_catalog.pg_largeobject_metadata;

create function pgconvoy.put_large_object() returns trigger
language plpgsql as $function$
declare
    of_owner text := new.owner;
    granted text[];
begin
    if new.piece_at > 0 then
        perform pg_catalog.lo_put(new.oid, new.piece_at, new.bytes);
        return new;
    end if;
    perform pg_catalog.lo_from_bytea(new.oid, new.bytes);
    if new.comment is not null then
        execute pg_catalog.format('comment on large object %s is %L', new.oid, new.comment);
    end if;
    -- Roles that are missing here are told before anything begins, and left out.
    if not exists (select from pg_catalog.pg_roles where rolname = of_owner) then
        of_owner := current_user;
    elsif of_owner <> current_user then
        execute pg_catalog.format('alter large object %s owner to %I', new.oid, of_owner);
    end if;
    if new.grants is not null then
        execute pg_catalog.format('revoke all on large object %s from public, %I', new.oid, of_owner);
    end if;
    -- An empty array has no slices.
    if pg_catalog.cardinality(new.grants) > 0 then
        foreach granted slice 1 in array new.grants loop
            if granted[1] is null or exists (select from pg_catalog.pg_roles where rolname = granted[1]) then
                execute pg_catalog.format(
                    'grant %s on large object %s to %s%s', granted[2], new.oid,
                    case when granted[1] is null then 'public' else pg_catalog.quote_ident(granted[1]) end,
                    case granted[3] when 'true' then ' with grant option' else '' end);
            end if;
        end loop;
    end if;
    return new;
end
$function$;
create trigger put instead of insert on pgconvoy.large_object
    for each row execute function pgconvoy.put_large_object();

create function pgconvoy.remove_large_object() returns trigger
language plpgsql as $function$
begin
    perform pg_catalog.lo_unlink(old.oid);
    return old;
end
$function$;
create trigger remove instead of delete on pgconvoy.large_object
    for each row execute function pgconvoy.remove_large_object();

-- Raises unless the caller's plan of the table is current, and keeps it current until the transaction ends (law O1).
-- The plans of a task that has not ended go only when another task takes the table over: no later owner can mend that.
create function pgconvoy.fence(of_task text, of_table bigint, mine bigint) returns void
language plpgsql as $function$
begin
    perform 1 from pgconvoy.table_state
        where task = of_task and table_no = of_table and generation = mine
        for share;
    if found then
        return;
    end if;
    -- Of one moment: when a task ends, its row and its plans go together.
    if exists (select from pgconvoy.task where id = of_task)
        and not exists (select from pgconvoy.table_state where task = of_task and table_no = of_table)
    then
        raise exception using
            errcode = 'PC002',
            message = pg_catalog.format('another task has taken over table %s of task %s', of_table, of_task);
    end if;
    raise exception using
        errcode = 'PC001',
        message = pg_catalog.format(
            'generation %s of table %s of task %s is not current', mine, of_table, of_task);
end
$function$;

-- Gives a table that holds nothing a new file in this transaction, which then can freeze the rows that it copies into it, and says
-- so; or says that it cannot, having changed nothing. Nothing is lost, whoever asks: a table with a single block is left alone. It
-- waits for nobody: where somebody else uses the table, the answer is no. Not for a table that is copied anew: who reads it meanwhile would wait.
create function pgconvoy.make_fresh(of_task text, of_table bigint, written pg_catalog.regclass) returns boolean
language plpgsql as $function$
begin
    if exists (select from pgconvoy.copied_anew where (task, table_no) = (of_task, of_table))
        -- Of an unlogged table's mark and its rows a crash takes both, or none.
        or not exists (select from pg_catalog.pg_class where oid = written and relkind = 'r' and relpersistence = 'p')
        -- 32 = it is called by TRUNCATE, which is nothing that the source did.
        or exists (select from pg_catalog.pg_trigger where tgrelid = written and tgtype & 32 <> 0)
    then
        return false;
    end if;
    execute pg_catalog.format('lock table only %s in access exclusive mode nowait', written);
    if pg_catalog.pg_relation_size(written) > 0 then
        raise object_in_use;
    end if;
    execute pg_catalog.format('truncate only %s', written);
    return true;
exception
    -- Of these, the second is a privilege that is missing, the third a foreign key that points at it. What was locked is free again.
    when lock_not_available or insufficient_privilege or feature_not_supported or object_in_use then
        return false;
end
$function$;

-- Raises unless a statement of the stream found all rows that it was to change: so a commit can be sent behind it without
-- waiting for an answer.
create function pgconvoy.require_rows(changed bigint, required bigint) returns void
language plpgsql as $function$
begin
    if changed is distinct from required then
        raise exception using
            errcode = 'PC003',
            message = pg_catalog.format('%s rows were to be changed, of which %s are there', required, changed);
    end if;
end
$function$;

-- Makes the caller the owner of a unit. Raises when the task has ended, or when a younger owner was here.
create function pgconvoy.own_unit(of_task text, of_unit bigint, mine bigint) returns void
language plpgsql as $function$
begin
    perform 1 from pgconvoy.task where id = of_task for key share;
    if not found then
        raise exception using
            errcode = 'PC001',
            message = pg_catalog.format('task %s has ended', of_task);
    end if;
    insert into pgconvoy.unit_owner as owner (task, unit, epoch) values (of_task, of_unit, mine)
        on conflict (task, unit) do update set epoch = excluded.epoch where owner.epoch <= excluded.epoch;
    if not found then
        raise exception using
            errcode = 'PC001',
            message = pg_catalog.format('epoch %s of unit %s of task %s is not current', mine, of_unit, of_task);
    end if;
end
$function$;

-- Takes a stream over: what is applied so far is the new owner's to go on from. Raises when the task has ended, or when a
-- younger owner was here.
create function pgconvoy.take_over_stream(of_task text, mine bigint, opened_at pg_lsn) returns table (lsn pg_lsn, seq bigint)
language plpgsql as $function$
begin
    perform 1 from pgconvoy.task where id = of_task for key share;
    if not found then
        raise exception using
            errcode = 'PC001',
            message = pg_catalog.format('task %s has ended', of_task);
    end if;
    insert into pgconvoy.apply_progress (task, epoch, lsn, seq) values (of_task, 0, opened_at, 0)
        on conflict do nothing;
    return query update pgconvoy.apply_progress p set epoch = mine, seq = p.seq + 1
        where p.task = of_task and p.epoch <= mine returning p.lsn, p.seq;
    if not found then
        raise exception using
            errcode = 'PC001',
            message = pg_catalog.format('epoch %s of the stream of task %s is not current', mine, of_task);
    end if;
end
$function$;

-- Steps the applied position on; raises unless all is as the caller left it (law O3). What was noted of the source's log only
-- grows: a new owner of the stream reads again what an older one had read.
create function pgconvoy.advance_stream(of_task text, mine bigint, expected_lsn pg_lsn, expected_seq bigint, to_lsn pg_lsn,
    changed_at pg_lsn, passed text, passed_at pg_lsn) returns void
language plpgsql as $function$
begin
    update pgconvoy.apply_progress set lsn = to_lsn, seq = expected_seq + 1,
        last_change = greatest(changed_at, last_change),
        marker = case when passed_at <= marker_lsn then marker else coalesce(passed, marker) end,
        marker_lsn = greatest(passed_at, marker_lsn)
        where task = of_task and epoch = mine and lsn = expected_lsn and seq = expected_seq;
    if not found then
        raise exception using
            errcode = 'PC001',
            message = pg_catalog.format('the stream of task %s is not at %s, batch %s, of epoch %s', of_task, expected_lsn, expected_seq, mine);
    end if;
end
$function$;

-- Keeps in mind what the caller's transaction changes: these keys of these tables, each once, and tables of which no key tells it.
-- Of a table that changes a lot half of the keys are let go, by their hashes, as often as is needed.
create function pgconvoy.note_changed(of_task text, tables bigint[], keys text[], untold_tables bigint[], at_most bigint) returns void
language plpgsql as $function$
declare
    next_look integer := (select p.look from pgconvoy.apply_progress p where p.task = of_task);
    full_table record;
    gone bigint;
begin
    insert into pgconvoy.changed_table (task, table_no, look)
        select distinct of_task, no, next_look from pg_catalog.unnest(tables || untold_tables) as t (no)
        on conflict do nothing;
    update pgconvoy.changed_table set untold = true
        where task = of_task and look = next_look and table_no = any (untold_tables) and not untold;
    with put as (
        insert into pgconvoy.changed_key as known (task, table_no, key, look)
        select of_task, told.no, told.key, next_look from unnest(tables, keys) as told (no, key)
        join pgconvoy.changed_table t on (t.task, t.table_no, t.look) = (of_task, told.no, next_look)
        where pg_catalog.hashtextextended(told.key collate pg_catalog."C", 0) & ((1::bigint << t.level) - 1) = 0
        on conflict (task, table_no, key) do update set look = excluded.look, differed = false
            where known.look < excluded.look or known.differed
        returning table_no
    ), put_of as (select table_no, pg_catalog.count(*) as keys from put group by table_no)
    update pgconvoy.changed_table t set kept = t.kept + put_of.keys from put_of
        where (t.task, t.table_no, t.look) = (of_task, put_of.table_no, next_look);
    loop
        select t.table_no, t.level + 1 as level into full_table from pgconvoy.changed_table t
            where t.task = of_task and t.look = next_look and t.kept > at_most limit 1;
        exit when not found;
        delete from pgconvoy.changed_key k where k.task = of_task and k.table_no = full_table.table_no and k.look = next_look
            and not k.differed and pg_catalog.hashtextextended(k.key, 0) & ((1::bigint << full_table.level) - 1) <> 0;
        get diagnostics gone = row_count;
        update pgconvoy.changed_table t set level = full_table.level, kept = t.kept - gone
            where (t.task, t.table_no, t.look) = (of_task, full_table.table_no, next_look);
    end loop;
end
$function$;

-- Raises unless the caller is the youngest owner of the unit, and keeps it so until the transaction ends.
create function pgconvoy.hold_unit(of_task text, of_unit bigint, mine bigint) returns void
language plpgsql as $function$
begin
    perform 1 from pgconvoy.unit_owner
        where task = of_task and unit = of_unit and epoch = mine
        for share;
    if not found then
        raise exception using
            errcode = 'PC001',
            message = pg_catalog.format('epoch %s of unit %s of task %s is not current', mine, of_unit, of_task);
    end if;
end
$function$;

-- Marks a statement as done, in the transaction that ran it; raises when it was done already.
create function pgconvoy.finish_entry(of_task text, of_entry bigint, of_unit bigint, mine bigint) returns void
language plpgsql as $function$
begin
    perform pgconvoy.hold_unit(of_task, of_unit, mine);
    update pgconvoy.schema_entry set done = true where task = of_task and no = of_entry and not done;
    if not found then
        raise exception using
            errcode = 'PC001',
            message = pg_catalog.format('entry %s of task %s is done already, or gone', of_entry, of_task);
    end if;
end
$function$;
