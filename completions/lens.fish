# Completion of lens for fish; made by: lens completion fish

function __lens_complete
    set -l tokens (commandline -opc)
    set -l current (commandline -ct)
    set -l lines (command $tokens[1] __complete fish $tokens[2..-1] "$current" 2>/dev/null)
    if string match -q ':files*' -- "$lines[1]"
        __fish_complete_path "$current"
    else if set -q lines[1]
        printf '%s\n' $lines
    end
end

complete -c lens -k -f -a '(__lens_complete)'
